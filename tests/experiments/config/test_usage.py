"""--help fits on a screen and names what can be chosen; GROUP=help lists a group."""

from pathlib import Path

import pytest
from quicksilver.decoders.presets import PRESETS, knobs
from quicksilver.experiments.config import usage as module
from quicksilver.experiments.config.usage import listed, options, usage

CONF = Path(__file__).resolve().parents[3] / "conf"


def test_help_is_at_most_40_lines_of_100_columns() -> None:
    lines = usage().splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100


def test_help_has_room_for_more_experiments(monkeypatch: pytest.MonkeyPatch) -> None:
    more = {f"study_{number}": "# What it measures" for number in range(16)}
    monkeypatch.setattr(module, "options", lambda group: more if group == "experiment" else options(group))
    lines = usage().splitlines()
    assert len(lines) <= 40
    assert all(any(name in line for line in lines) for name in more)


def test_help_names_every_experiment_task_key_and_group_that_can_be_chosen() -> None:
    said = usage()
    chosen = {folder.name for folder in CONF.iterdir() if folder.is_dir()} - {"recipe", "__pycache__"}
    for name in (*options("experiment"), *options("task"), *options("model"), *chosen, "seeds=", "output=", "decoder=",
                 "GROUP=help", "runs/latest", "runs/records"):
        assert name in said, name
    assert "recipe" not in said


@pytest.mark.parametrize("experiment", options("experiment"))
def test_an_experiment_is_described_in_one_line_that_is_shown_whole(experiment: str) -> None:
    (line,) = (line for line in listed("experiment") if line.startswith(f"  {experiment} "))
    assert not line.endswith("...")
    assert len(line.split()) > 4


def test_every_preset_is_listed_with_its_source_and_its_knobs() -> None:
    lines = {line.split()[0]: line for line in listed("decoder")}
    assert lines["fast_dllm_dual"].split(maxsplit=1)[1] == "arXiv 2505.22618  block=4 tau=0.9"
    assert lines["mercury_style"].split()[1] == "ours"
    for name in PRESETS:
        assert all(f" {knob}=" in lines[name] for knob in knobs(name)), name
    assert "parts" in lines


def test_other_groups_are_listed_with_what_their_files_say() -> None:
    policies = {line.split()[0]: line.split(maxsplit=1)[1:] for line in listed("policy")}
    assert set(policies) == {path.stem for path in (CONF / "policy").glob("*.yaml")}
    assert policies["klass"] == ["tau=0.9 epsilon=0.01 history=2"]
    assert policies["remdm_cap"] == ["eta=0.008"]
    models = [" ".join(line.split()) for line in listed("model")]
    assert "small 0.85M parameters at small vocabularies." in models
    assert list(listed("nothing")) == []
