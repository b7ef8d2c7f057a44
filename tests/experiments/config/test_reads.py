from quicksilver.experiments.config.reads import followed, reads

CONFIG = {
    "experiment": {"seeds": "${seeds}", "count": "${model.experts.num}", "tasks": "${task}", "log": "at/${output}/x",
                   "same": "${.count}", "second": "${list[1].z}"},
    "seeds": [0, 5], "model": {"experts": {"num": 3, "width": 4}, "depth": 2}, "head": {"kind": 1},
    "task": {"a 0.7": {"head": "${head}"}}, "output": "runs", "list": [1, {"z": 2}], "unread": 5, "alias": "${model}"}


def test_an_experiment_reads_what_lies_below_it_and_what_interpolations_name_however_far() -> None:
    found = reads(CONFIG, ("experiment",))
    assert found.keys() >= {("seeds", "1"), ("model", "experts", "num"), ("task", "a 0.7", "head"), ("head", "kind"),
                            ("output",), ("list", "1", "z"), ("experiment", "count")}
    unread = {("unread",), ("model", "experts", "width"), ("model", "depth"), ("list", "0"), ("alias",)}
    assert not found.keys() & unread
    assert found["model", "experts", "num"] == 3


def test_an_interpolation_leads_to_the_node_that_it_names() -> None:
    assert followed(CONFIG, ("experiment", "seeds")) == (("seeds",), [0, 5])
    assert followed(CONFIG, ("experiment", "same")) == (("model", "experts", "num"), 3)
    assert followed(CONFIG, ("alias", "experts", "width")) == (("model", "experts", "width"), 4)
    assert followed(CONFIG, ("experiment", "tasks", "a 0.7", "head", "kind")) == (("head", "kind"), 1)
    assert followed(CONFIG, ("nowhere", "x"))[1] is None
