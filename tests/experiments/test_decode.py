"""A look at one decoder: the steps of the first item, and what is right of all."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quicksilver.decoders import Blocks, Decoder
from quicksilver.experiments import decode as module
from quicksilver.experiments.decode import Decode
from quicksilver.experiments.study.setup import TaskSetup
from quicksilver.models import SeparateHead

from tests.experiments.conftest import LEFT_TO_RIGHT, ONE_A_STEP, TASK, autoregressive_recipe, diffusion_recipe

FAST = {"updates": 1, "num_curve_points": 1}
SETUP = TaskSetup(TASK, diffusion_recipe(**FAST), autoregressive_recipe(**FAST), steps=[1], ablation_steps=[])


def experiment(decoder: Decoder = ONE_A_STEP, **changes: Any) -> Decode:
    settings: dict[str, Any] = {"tasks": {"sudoku4": SETUP}, "seeds": [0], "num_items": 3, "batch_size": 2,
                                "threads": 1, "device": "cpu", "kernels": "auto", "head": SeparateHead()}
    return Decode(decoder=decoder, **(settings | changes))


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(module.console, "print", lambda text, **_: lines.append(text))
    return lines


def without_times(lines: list[str]) -> list[str]:
    return [line.partition(" steps an item")[0] for line in lines]


def test_each_step_of_the_first_item_is_a_line_with_one_mask_less(tmp_path: Path, printed: list[str]) -> None:
    experiment().check()
    assert experiment().run(tmp_path) == 0
    *steps, last = printed
    assert [line.split()[:2] for line in steps] == [["step", str(number)] for number in range(1, TASK.num_blanks + 1)]
    assert [line.count("·") for line in steps] == list(range(TASK.num_blanks - 1, -1, -1))
    assert [len(line.split()[2:]) for line in steps] == [TASK.num_cells] * TASK.num_blanks
    assert last.startswith("sudoku4: ")
    assert f" of 3 right, {TASK.num_blanks:.1f} steps an item, " in last
    assert last.endswith(" ms an item at batch 2")


def test_weights_of_a_checkpoint_decode_as_those_just_trained_and_nothing_is_trained(
        tmp_path: Path, printed: list[str]) -> None:
    experiment().run(tmp_path / "trained")
    trained = without_times(printed)
    (weights,) = (tmp_path / "trained" / "checkpoints").glob("*.safetensors")
    printed.clear()
    taken = experiment(checkpoint=str(weights))
    taken.check()
    taken.run(tmp_path / "taken")
    assert without_times(printed) == trained
    assert not (tmp_path / "taken").exists()
    with pytest.raises(ValueError, match="a checkpoint of another configuration"):
        experiment(LEFT_TO_RIGHT, checkpoint=str(weights)).check()


def test_the_model_is_the_one_that_the_cache_is_for_or_the_named_one(tmp_path: Path, printed: list[str]) -> None:
    experiment(LEFT_TO_RIGHT).check()
    experiment(LEFT_TO_RIGHT).run(tmp_path)
    assert f" of 3 right, {TASK.num_cells:.1f} steps an item, " in printed[-1]  # its model writes the whole grid
    with pytest.raises(ValueError, match="needs a causal next-token model"):
        experiment(LEFT_TO_RIGHT, family="diffusion").check()
    with pytest.raises(ValueError, match="family='gan': must be one of"):
        experiment(family="gan").check()


@pytest.mark.parametrize(("changes", "message"), [
    ({"seeds": [0, 1]}, r"seeds=\[0, 1\]: experiment=decode takes exactly one"),
    ({"tasks": {"a": SETUP, "b": SETUP}}, r"task=\['a', 'b'\]: experiment=decode takes exactly one"),
    ({"num_items": 0}, "num_items=0: must be an integer of at least 1"), ({"batch_size": 0}, "batch_size=0"),
    ({"threads": 0}, "threads=0"), ({"device": "tpu"}, "device='tpu'"), ({"kernels": "fast"}, "kernels='fast'"),
    ({"batch_invariant": 1}, "batch_invariant=1")])
def test_a_bad_setting_is_refused_by_name_and_value(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment(**changes)


def test_a_decoder_that_does_not_fit_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match="size=5: blocks must divide"):
        experiment(replace(ONE_A_STEP, windows=Blocks(5))).check()


def test_a_checkpoint_that_is_not_there_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match="nowhere.safetensors: no such checkpoint"):
        experiment(checkpoint="nowhere.safetensors").check()
