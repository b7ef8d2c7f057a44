"""A decoder setting is measured beside its reference, in turns; totals and quantiles are those of all batches."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from quicksilver.decoders import Request
from quicksilver.experiments.frontier.experiment import Frontier
from quicksilver.experiments.study import decode_point as module
from quicksilver.experiments.study.decode_point import DecodePoint, measure
from quicksilver.experiments.study.runner import Runner
from quicksilver.experiments.training.evaluator import Evaluator, TimedBatch, accuracy
from quicksilver.models import Causal, DecodableTransformer, SeparateHead

from tests.experiments.conftest import TASK

Build = Callable[..., Frontier]


@pytest.fixture
def diffusion(frontier: Build) -> DecodePoint:
    """In batches of 4."""
    return next(point for point in frontier().points() if point.family == "diffusion" and point.batch_size == 4)


@pytest.fixture
def runner(tmp_path: Path, diffusion: DecodePoint) -> Runner:
    made = Runner(tmp_path)
    made.train(diffusion.model)
    made.train(diffusion.reference)
    return made


def test_what_is_measured_are_the_answers_of_the_model_and_the_work_of_all_batches(
        runner: Runner, diffusion: DecodePoint) -> None:
    result = measure(replace(diffusion, num_items=10), runner)  # batches of 4, 4 and 2
    plain = diffusion.model.evaluator(runner.model(diffusion.model), diffusion.decoder, SeparateHead())
    assert result["num_right"] == result["right"].count("1") == 10 * accuracy(plain, TASK, 10, 10)
    assert result["answer_tokens"] == 10 * TASK.num_blanks
    assert result["tokens_per_second"] == pytest.approx(result["answer_tokens"] / result["seconds"])
    assert result["accounting"]["forwards"] == {"denoise": 3}  # one step a batch
    assert result["accounting"]["positions_computed"] == 10 * TASK.num_cells


def test_who_goes_first_changes_from_round_to_round(
        runner: Runner, diffusion: DecodePoint, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, order = Evaluator.decode, []

    def watched(self: Evaluator, requests: Sequence[Request]) -> TimedBatch:
        assert isinstance(self.model, DecodableTransformer)
        order.append("reference" if self.model.spec.pattern == Causal() else "ours")
        return decode(self, requests)

    monkeypatch.setattr(Evaluator, "decode", watched)
    measure(replace(diffusion, num_items=20), runner)  # five batches, two a round
    warm_up, rounds = order[:2], order[2:]
    assert warm_up == ["ours", "reference"]
    assert rounds == ["ours", "ours", "reference", "reference", "ours", "ours", "ours", "reference"]


@pytest.mark.parametrize("name", ["batch_size", "num_items"])
def test_a_point_of_nothing_is_refused(diffusion: DecodePoint, name: str) -> None:
    changes: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=f"{name}=0: must be an integer of at least 1"):
        replace(diffusion, **changes)


def test_work_is_added_up_and_the_store_is_the_largest() -> None:
    accounts = [{"forwards": {"denoise": 2, "store": 1}, "flops": 10, "kv_store_bytes": 64},
                {"forwards": {"denoise": 3}, "flops": 5, "kv_store_bytes": 96},
                {"forwards": {"draft": 1}, "flops": 1, "kv_store_bytes": 32}]
    assert module._total(accounts) == {"forwards": {"denoise": 5, "store": 1, "draft": 1}, "flops": 16,
                                       "kv_store_bytes": 96}


@pytest.mark.parametrize(("share", "expected"), [(0.2, 1), (0.21, 2), (0.5, 3), (0.8, 4), (0.95, 5), (1.0, 5)])
def test_a_quantile_is_the_smallest_value_that_the_share_does_not_exceed(share: float, expected: float) -> None:
    assert module._quantile([4, 1, 5, 3, 2], share) == expected
    assert module._quantile([7], share) == 7


def test_a_decode_in_another_dtype_takes_copies_of_both_models(runner: Runner, diffusion: DecodePoint) -> None:
    result = measure(replace(diffusion, num_items=4, dtype="bfloat16"), runner)
    assert result["dtypes"] == {"weights": ["bfloat16"], "products": ["bfloat16"]}
    assert runner.model(diffusion.model).head.weight.dtype == torch.float32
    assert runner.model_in(diffusion.model, "cpu", "bfloat16") is runner.model_in(diffusion.model, "cpu", "bfloat16")
    assert measure(replace(diffusion, num_items=4), runner)["dtypes"]["weights"] == ["float32"]


def test_a_decode_in_eight_bits_takes_copies_and_says_how_they_are_held(runner: Runner, diffusion: DecodePoint) -> None:
    result = measure(replace(diffusion, num_items=4, dtype="int8"), runner)
    assert result["dtypes"]["weights"] == ["float32", "weights of 8 bits in rows"]
    assert "bfloat16" in result["dtypes"]["products"]
    assert result["linear"] == "cpu (weights of 8 bits in rows)"
    assert not runner.model(diffusion.model).head.is_quantized


def test_replayed_steps_give_the_same_answers_and_are_counted(runner: Runner, diffusion: DecodePoint) -> None:
    taken, replayed = (measure(replace(diffusion, num_items=20, capture=capture), runner)
                       for capture in ("none", "graph"))
    assert "steps" not in taken
    for name in ("right", "answers_sha256", "accounting", "kernels", "linear"):
        assert replayed[name] == taken[name]
    # One step for each of five batches, and of the reference, decoded in every round, one for each cell.
    assert replayed["steps"] == {"steps_replayed": 5, "steps_captured": 0, "steps_taken": 0,
                                 "steps_by_compiled_program": 0, "reasons": []}
    of_reference = replayed["reference_steps"]
    assert (of_reference["steps_captured"], of_reference["steps_taken"], of_reference["reasons"]) == (0, 0, [])
    assert of_reference["steps_replayed"] % TASK.num_cells == 0
    assert of_reference["steps_replayed"] > 0


def test_compiled_steps_are_counted(runner: Runner, diffusion: DecodePoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quicksilver.decoders.capture.program._by_inductor", lambda graph, arguments: graph)
    steps = measure(replace(diffusion, num_items=20, capture="compile"), runner)["steps"]
    assert steps["steps_by_compiled_program"] == steps["steps_replayed"] == 5


def test_auto_captures_and_what_there_is_none_of_is_refused(diffusion: DecodePoint) -> None:
    assert replace(diffusion, capture="auto").capture == "graph"
    with pytest.raises(ValueError, match="capture='graphs': must be one of auto, none, graph, compile"):
        replace(diffusion, capture="graphs")
    with pytest.raises(ValueError, match="capture=compile with device='cuda': must be auto, none or graph there"):
        replace(diffusion, capture="compile", device="cuda")
