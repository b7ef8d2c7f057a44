"""Every option of every group composes, builds its object, and gives scalars of the annotated types."""

import dataclasses
import shutil
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from quicksilver.experiments.decode import Decode
from quicksilver.experiments.frontier.experiment import Frontier

CONF = Path(__file__).resolve().parents[1] / "conf"
TASKS = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))
GROUPS = ("windows", "schedule", "sampler", "policy", "cache", "guidance", "family")
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
DECODERS = sorted(path.stem for path in (CONF / "decoder").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_module("quicksilver.conf", version_base="1.3"):
        yield


def composed(*overrides: str) -> Any:
    return compose("config", overrides=["threads=2", "device=cpu", "precision=float32", *overrides])


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
    assert list(experiment.tasks) == ["sudoku4", "sudoku6", "extraction", "addition"]
    assert experiment.seeds == [0]
    assert (experiment.batch_sizes, experiment.num_items) == ([1, 16], [64, 512])


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_builds_its_part(group: str, option: str) -> None:
    config = composed("experiment=decode", "task=sudoku4", f"{group}={option}")
    part = instantiate(config[group])
    check_types(part)
    declared = {field.name for field in dataclasses.fields(part)}
    written = set(config[group]) - {"_target_"}
    assert written <= declared


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_preset_builds_a_decoder(decoder: str) -> None:
    experiment = built("experiment=decode", "task=sudoku4", f"decoder={decoder}")
    assert isinstance(experiment, Decode)
    assert check_types(experiment) > 20


def test_a_preset_only_selects_and_the_command_line_wins() -> None:
    experiment = built("experiment=decode", "task=sudoku4", "decoder=llada", "policy=top_margin", "windows.size=8")
    assert type(experiment.decoder.policy).__name__ == "TopMargin"
    assert experiment.decoder.windows.size == 8


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_part_names_a_public_class(group: str, option: str) -> None:
    assert (CONF / group / f"{option}.yaml").read_text().lstrip("#").startswith("_target_: quicksilver.")


def collected(root: Path) -> set[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    finished = subprocess.run(command, cwd=root, text=True, capture_output=True)
    assert finished.returncode == 0, finished.stdout
    return {line for line in finished.stdout.splitlines() if "::" in line}


@pytest.mark.slow
def test_a_policy_added_by_its_yaml_changes_no_other_tests_id(tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(CONF.parent, root, ignore=shutil.ignore_patterns(".*", "results", "runs"))
    before = collected(root)
    shutil.copy(root / "conf" / "policy" / "threshold.yaml", root / "conf" / "policy" / "a_new_one.yaml")
    after = collected(root)
    assert not before - after
    assert len(after - before) > 10
    assert all("a_new_one" in test for test in after - before)
