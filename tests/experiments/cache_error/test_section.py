"""What is said of caches, from records written by hand."""

from quicksilver.experiments.cache_error.section import section, small

from tests.experiments.handmade import cache_record, step


def records(**changes: float) -> list[dict]:
    exact = step(0, 0, kl=[0.0, 0.0], flips=[0, 0], computed=100)
    wrong = {"dual": 0.5, "prefix": 0.1} | changes
    return [cache_record("recompute", [exact, exact | {"index": 1}])] + [
        cache_record(cache, [exact, step(0, 1, kl=[0.0, kl], flips=[0, 1], computed=30)], differs="0100")
        for cache, kl in wrong.items()]


def test_the_least_and_the_most_wrong_cache_are_named_with_what_they_save() -> None:
    (sentence,) = section(records(), ["here"]).findings
    assert sentence == (
        "Caches are off by 5.0e-03 nats a position (prefix on sums, 65 % of the positions computed) to 2.5e-02 nats a "
        "position (dual on sums, 65 % of the positions computed); answers that differ from recomputing: sums 1 of 4.")


def test_exact_caches_are_said_to_be_exact_over_all_tasks() -> None:
    exact = step(0, 0, kl=[0.0, 1e-7], flips=[0, 0])
    found = section([cache_record("append", [exact], objective="AutoregressiveNLL"),
                     cache_record("append", [exact], task="b")], ["here"])
    assert found.findings == ["Exact: append (b; sums, autoregressive); mean KL up to <1e-7 nats, every argmax, commit "
                              "and answer as recomputed."]


def test_a_failed_point_alone_makes_a_section_without_a_figure() -> None:
    found = section([cache_record("dual", []) | {"result": {"failed": "why"}}], ["here"])
    assert (found.images, found.findings, found.values["rows"]) == ({}, [], [])


def test_small_numbers_keep_their_size() -> None:
    assert [small(value) for value in (0.0, 3e-9, -3e-9, 2e-7, 0.25)] == ["0", "<1e-7", "<1e-7", "2.0e-07", "2.5e-01"]
