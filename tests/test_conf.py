"""Every option of every group composes, builds its object, and gives scalars of the annotated types."""

import dataclasses
import json
import shutil
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from quicksilver.decoders import (
    Categorical,
    ClassifierFree,
    Decoder,
    Floor,
    Greedy,
    Linear,
    Recompute,
    Threshold,
    TopMargin,
    Whole,
    presets,
)
from quicksilver.experiments.decode import Decode
from quicksilver.experiments.frontier.experiment import Frontier
from quicksilver.experiments.harness.records import describe

CONF = Path(__file__).resolve().parents[1] / "conf"
TASKS = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))
GROUPS = ("windows", "schedule", "sampler", "policy", "cache", "guidance")
BY_GROUP = {group: sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group in GROUPS}
OPTIONS = [(group, option) for group, options in BY_GROUP.items() for option in options]
RECORDED = json.loads((CONF.parent / "tests" / "decoders" / "presets.json").read_text())
"""The decoder of every row of conf/decoder, described when rows still chose their parts."""


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_module("quicksilver.conf", version_base="1.3"):
        yield


def composed(*overrides: str) -> Any:
    return compose("config", overrides=["threads=2", "models_at_once=1", "device=cpu", "precision=float32", *overrides])


def built(*overrides: str) -> Any:
    return instantiate(composed(*overrides).experiment, _convert_="all")


def check_types(value: Any, where: str = "") -> int:
    """Compare the scalar fields of nested dataclasses with their annotations; returns how many were compared."""
    if isinstance(value, dict):
        return sum(check_types(item, f"{where}.{key}") for key, item in value.items())
    if isinstance(value, list):
        return sum(check_types(item, f"{where}[{place}]") for place, item in enumerate(value))
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return 0
    count, hints = 0, typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        item, hint = getattr(value, field.name), hints[field.name]
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        allowed = [kind for kind in kinds if kind in (int, float, bool, str, type(None))]
        if allowed and not dataclasses.is_dataclass(item):
            if float in allowed:
                allowed.append(int)
            assert type(item) in allowed, f"{where}.{field.name}={item!r} is no {hint}"
            count += 1
        count += check_types(item, f"{where}.{field.name}")
    return count


@pytest.mark.parametrize("task", TASKS)
def test_every_task_builds_a_frontier(task: str) -> None:
    experiment = built(f"task={task}")
    assert isinstance(experiment, Frontier)
    assert check_types(experiment) > 50
    assert list(experiment.tasks) == [task]
    assert len(list(experiment.training_points())) == 2


def test_the_default_is_the_four_tasks_with_one_seed() -> None:
    experiment = built()
    assert list(experiment.tasks) == ["extraction", "sudoku4", "sudoku6", "addition"]
    assert experiment.seeds == [0]
    assert (experiment.batch_sizes, experiment.num_items) == ([1, 16], [16, 128])


@cache
def with_parts(place: int) -> Any:
    """A configuration with the option in this place of every group; a short group begins anew."""
    chosen = [f"{group}={options[place % len(options)]}" for group, options in BY_GROUP.items()]
    return composed("experiment=decode", "task=sudoku4", *chosen)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_builds_its_part(group: str, option: str) -> None:
    config = with_parts(BY_GROUP[group].index(option))
    part = instantiate(config[group])
    check_types(part)
    declared = {field.name for field in dataclasses.fields(part)}
    written = set(config[group]) - {"_target_"}
    assert written <= declared


@pytest.mark.slow
@pytest.mark.parametrize("decoder", RECORDED)
def test_every_row_gives_the_decoder_that_it_always_gave(decoder: str) -> None:
    experiment = built("experiment=decode", "task=sudoku4", f"decoder={decoder}")
    assert isinstance(experiment, Decode)
    assert check_types(experiment) > 20
    assert describe(experiment.decoder) == RECORDED[decoder]


@pytest.mark.parametrize(("overrides", "expected"), [
    (["decoder=fast_dllm_dual", "decoder.tau=0.8"], presets.fast_dllm_dual(block=4, tau=0.8)),
    (["decoder=llada", "decoder.block=8", "decoder.steps=2"], presets.llada(block=8, steps=2)),
    (["decoder=autoregressive", "sampler=categorical", "sampler.top_p=0.9"],
     presets.autoregressive(Categorical(top_p=0.9))),
    (["decoder=parts", "policy=threshold", "policy.tau=0.8", "schedule=unbounded", "cache=dual", "windows=blocks"],
     presets.fast_dllm_dual(block=4, tau=0.8)),
    (["policy=threshold", "schedule=floor", "schedule.base.steps=2"],
     Decoder(Whole(), Floor(Linear(2)), Greedy(), Threshold(0.9), Recompute())),
    (["decoder=parts", "policy=top_margin", "guidance=classifier_free", "guidance.scale=2"],
     Decoder(Whole(), Linear(8), Greedy(), TopMargin(), Recompute(), guidance=ClassifierFree(2)))],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_a_preset_takes_its_knobs_and_parts_are_mixed_and_matched(overrides: list[str], expected: Decoder) -> None:
    assert built("experiment=decode", *overrides).decoder == expected


def test_decode_has_a_task_and_takes_the_model_that_the_decoder_is_for() -> None:
    experiment = built("experiment=decode")
    assert (list(experiment.tasks), experiment.family) == (["sudoku6"], None)
    assert built("experiment=decode", "family=autoregressive").family == "autoregressive"


def collected(root: Path) -> set[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    finished = subprocess.run(command, cwd=root, text=True, capture_output=True)
    assert finished.returncode == 0, finished.stdout
    return {line for line in finished.stdout.splitlines() if "::" in line}


@pytest.mark.slow
def test_a_policy_added_by_its_yaml_changes_no_other_tests_id(tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(CONF.parent, root, ignore=shutil.ignore_patterns(".*", "records", "runs", "build"))
    before = collected(root)
    shutil.copy(root / "conf" / "policy" / "threshold.yaml", root / "conf" / "policy" / "a_new_one.yaml")
    after = collected(root)
    assert not before - after
    assert len(after - before) > 10
    assert all("a_new_one" in test for test in after - before)
