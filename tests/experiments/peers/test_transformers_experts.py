"""transformers' experts beside ours: the same layer, and what a line says."""

import pytest
import torch
from quicksilver.experiments.peers import transformers_experts
from quicksilver.experiments.peers.agreement import Turns
from quicksilver.kernels.moe_router import Routing
from quicksilver.models import ExpertShape
from rich.console import Console

from tests.experiments.peers.stand_ins import measured

SMALL = ExpertShape(8, 12, Routing(3))


@torch.inference_mode()
@pytest.mark.parametrize("way", ["eager", "grouped_mm"])
def test_both_layers_have_the_same_weights(way: str) -> None:
    ours, theirs = transformers_experts.pair(SMALL, width=16, way=way)
    x_BFE = torch.randn(1, 5, 16)
    torch.testing.assert_close(ours(x_BFE), theirs(x_BFE))


def test_a_line_tells_width_ratio_and_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_experts, "SHAPE", SMALL)
    monkeypatch.setattr(transformers_experts, "_POSITIONS", (2,))
    monkeypatch.setattr(transformers_experts, "pair", lambda way: PAIR)
    monkeypatch.setattr(transformers_experts, "interleaved", lambda ours, theirs, rounds: Turns([0.016], [0.032]))
    timings = list(measured(transformers_experts.speed()))
    warm, cold = timings[:2]
    assert "(eager), width 512, 8 of 12, top-3, 2 positions, warm: ours 1.000 ms, theirs 2.000, ratio 2.00" in warm.text
    assert "(aim: 1.2)" in warm.text
    assert "cold" in cold.text
    assert ["grouped_mm" in timing.text and "aim" not in timing.text for timing in timings] == [
        False, False, True, True]
    assert all(timing.holds for timing in timings)
    assert warm.figures["ratio"] == 2
    assert warm.figures["dtype"] == "float32"


PAIR = transformers_experts.pair(SMALL, width=512)


def test_an_older_transformers_is_named_and_not_timed(monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(transformers_experts, "console", Console(stderr=True, soft_wrap=True))
    monkeypatch.setattr(transformers_experts, "version", {"transformers": "4.57.1"}.get)
    assert list(transformers_experts.speed()) == []
    assert "not timed, since 4.57.1" in capsys.readouterr().err
