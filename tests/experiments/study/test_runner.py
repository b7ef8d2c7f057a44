"""Points on record: read where they are whole, made again where they failed or are damaged."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from quicksilver.experiments.harness.progress import console
from quicksilver.experiments.harness.records import Json, key_of
from quicksilver.experiments.study import runner as module
from quicksilver.experiments.study.runner import Runner
from quicksilver.experiments.training.recipe import TrainingPoint


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def measure(*_: object) -> NoReturn:
        raise error

    return measure


def again() -> Json:
    pytest.fail("measured again")


def test_a_point_on_record_is_not_measured_again_in_another_run_either(tmp_path: Path) -> None:
    first = Runner(tmp_path).record("point", lambda: {"number": 1})
    assert (first["point"], first["result"]) == ("point", {"number": 1})
    assert first["provenance"]["versions"]["torch"]
    assert Runner(tmp_path).record("point", again) == first


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), MemoryError("too large"), FloatingPointError("nan")])
def test_a_point_that_fails_is_recorded_with_its_reason_and_tried_again(tmp_path: Path, error: Exception) -> None:
    runner = Runner(tmp_path)
    with console.capture() as said:
        failed = runner.record("point", raising(error))
    assert failed["result"] == {"failed": f"{type(error).__name__}: {error}"}
    assert f"failed: {key_of('point')}: {error}" in said.get()
    assert runner.records.read("point") == failed
    assert runner.record("point", lambda: {"number": 1})["result"] == {"number": 1}
    assert runner.record("point", again)["result"] == {"number": 1}


def test_a_result_that_is_no_number_is_a_failure(tmp_path: Path) -> None:
    found = Runner(tmp_path).record("point", lambda: {"speeds": [1.0, float("nan")]})
    assert found["result"]["failed"].startswith("FloatingPointError: ")


@pytest.mark.parametrize("error", [ValueError("a mistake of ours"), KeyboardInterrupt()])
def test_a_mistake_or_an_interrupt_ends_the_run_and_leaves_no_record(tmp_path: Path, error: BaseException) -> None:
    runner = Runner(tmp_path)
    with pytest.raises(type(error)):
        runner.record("point", raising(error))
    assert list(runner.records.all()) == []


def test_a_damaged_record_is_named_and_made_again(tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    runner.record("point", lambda: {"number": 1})
    path = runner.records.path("point")
    path.write_text(path.read_text()[:-9])
    with console.capture() as said:
        found = runner.record("point", lambda: {"number": 2})
    assert found["result"] == {"number": 2}
    assert said.get().startswith("made again: ")
    assert path.name in said.get().replace("\n", "")


def test_a_model_that_failed_to_train_is_recorded_and_what_needs_it_fails_by_its_name(
        tmp_path: Path, training_point: Callable[..., TrainingPoint], monkeypatch: pytest.MonkeyPatch) -> None:
    runner, point = Runner(tmp_path), training_point(updates=1, num_curve_points=1)
    monkeypatch.setattr(module, "load_or_train", raising(RuntimeError("out of memory")))
    assert runner.train(point)["result"] == {"failed": "RuntimeError: out of memory"}
    needs_it = runner.record("decode", lambda: {"number": runner.model(point).num_parameters()})
    assert needs_it["result"]["failed"] == (f"RuntimeError: its model {key_of(point)} (sudoku4, seed 0) failed to "
                                            "train")
    monkeypatch.undo()
    trained = runner.train(point)
    assert runner.model(point).num_parameters() == trained["result"]["parameters"]


def test_only_missing_models_are_trained_ahead_several_at_once_and_fail_later_as_they_did_there(
        tmp_path: Path, training_point: Callable[..., TrainingPoint], monkeypatch: pytest.MonkeyPatch) -> None:
    there, diverged, other = (training_point(seed=seed, updates=1, num_curve_points=1) for seed in range(3))
    Runner(tmp_path).train(there)
    ahead: list[list[TrainingPoint]] = []

    def train(points: list[TrainingPoint], *_: object) -> dict[TrainingPoint, BaseException]:
        ahead.append(points)
        return {diverged: FloatingPointError("the loss is nan")}

    monkeypatch.setattr(module, "train_side_by_side", train)
    Runner(tmp_path).train_ahead([there, diverged, other])
    runner = Runner(tmp_path, models_at_once=2)
    runner.train_ahead([there, other, other])
    runner.train_ahead([there, diverged, other, diverged])
    assert ahead == [[diverged, other]]
    assert runner.train(diverged)["result"] == {"failed": "FloatingPointError: the loss is nan"}
    assert "failed" not in runner.train(diverged)["result"]
