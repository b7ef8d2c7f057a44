"""Bad settings of experiments are refused with the option's name and its value; records are made in order."""

from collections.abc import Callable
from pathlib import Path

import pytest
from quicksilver.experiments.harness.progress import console
from quicksilver.experiments.harness.records import Json
from quicksilver.experiments.study.checks import (
    check_batches,
    check_counts,
    check_different,
    check_invariance,
    check_machine,
    check_tasks,
    finish,
    measure_missing,
)
from quicksilver.experiments.study.runner import Runner
from quicksilver.experiments.study.setup import TaskSetup
from quicksilver.experiments.training.recipe import LARGEST_SEED

from tests.experiments.conftest import TASK, autoregressive_recipe, diffusion_recipe

TASKS = {"sudoku4": TaskSetup(TASK, diffusion_recipe(), autoregressive_recipe(), steps=[1], ablation_steps=[])}


@pytest.mark.parametrize(("check", "message"), [
    (lambda: check_machine("tpu", "auto", 1), "device='tpu'"),
    (lambda: check_machine("cpu", "fast", 1), "kernels='fast': must be one of auto, reference, cpu, triton"),
    (lambda: check_machine("cpu", "auto", 0), "threads=0: must be an integer of at least 1"),
    (lambda: check_machine("cpu", "auto", 1, 0), "models_at_once=0: must be an integer of at least 1"),
    (lambda: check_invariance(1, "cpu"), "batch_invariant=1: must be true or false"),  # pyright: ignore
    (lambda: check_tasks({}, [0]), r"tasks=\[\], seeds=\[0\]: needs at least one of each"),
    (lambda: check_tasks(TASKS, []), r"tasks=\['sudoku4'\], seeds=\[\]: needs at least one of each"),
    (lambda: check_tasks({"x": 3}, [0]), "task.x=3: must be a TaskSetup"),  # pyright: ignore
    (lambda: check_tasks(TASKS, [-1]), "seeds=-1"),
    (lambda: check_tasks(TASKS, [LARGEST_SEED + 1]), f"seeds={LARGEST_SEED + 1}: .* at most {LARGEST_SEED}"),
    (lambda: check_tasks(TASKS, [1, 0, 1]), r"seeds=\[1, 0, 1\]: must all be different"),
    (lambda: check_counts("steps", []), r"steps=\[\]: needs at least one"),
    (lambda: check_counts("steps", [2, 0]), "steps=0: must be an integer of at least 1"),
    (lambda: check_counts("steps", [2, 2]), r"steps=\[2, 2\]: must all be different"),
    (lambda: check_batches([1, 4], [8]), r"batch_sizes=\[1, 4\], num_items=\[8\]: must be as many"),
    (lambda: check_batches([1, 4], [8, 0]), "num_items=0: must be an integer of at least 1"),
    (lambda: check_different("orders", ["a", "a"]), r"orders=\['a', 'a'\]: must all be different")])
def test_a_refusal_names_the_option_and_its_value(check: Callable[[], None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check()


def test_what_can_be_measured_is_accepted() -> None:
    check_machine("cpu", "reference", 2, 2)
    check_invariance(True, "cpu")
    check_tasks(TASKS, [0, LARGEST_SEED])
    check_batches([1, 4], [8, 8])


def test_records_come_in_the_order_of_the_points_and_only_what_is_missing_is_measured(tmp_path: Path) -> None:
    measured: list[str] = []

    def measure(point: str, runner: Runner) -> Json:
        measured.append(point)
        return {"length": len(point)}

    runner = Runner(tmp_path)
    measure_missing(runner, ["b"], str.upper, measure)
    records = measure_missing(runner, ["ccc", "b", "aa"], str.upper, measure)
    assert measured == ["b", "ccc", "aa"]
    assert [record["result"]["length"] for record in records] == [3, 1, 2]


def test_at_the_end_it_is_said_where_the_report_is_and_failures_are_counted(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with console.capture() as said:
        assert finish(Path("runs/one/report.html"), [{"result": {"failed": "why"}}, {"result": {}}]) == 1
    assert said.get() == "report: runs/one/report.html\n"
