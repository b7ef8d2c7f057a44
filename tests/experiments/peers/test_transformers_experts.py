"""transformers' experts beside ours: the same layer, and what a line says."""

import pytest
import torch
from quicksilver.experiments.peers import transformers_experts
from quicksilver.kernels.moe_router import Routing
from quicksilver.models import ExpertShape

SMALL = ExpertShape(8, 12, Routing(3))


@torch.inference_mode()
def test_both_layers_have_the_same_weights() -> None:
    ours, theirs = transformers_experts.pair(SMALL, width=16)
    x_BFE = torch.randn(1, 5, 16)
    torch.testing.assert_close(ours(x_BFE), theirs(x_BFE))


def test_a_line_tells_width_ratio_and_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_experts, "SHAPE", SMALL)
    monkeypatch.setattr(transformers_experts, "_POSITIONS", (2,))
    monkeypatch.setattr(transformers_experts, "pair", lambda: PAIR)
    monkeypatch.setattr(transformers_experts, "in_turns", lambda ours, theirs, rounds: (0.016, 0.032, 2.0))
    warm, cold = transformers_experts.speed()
    assert "8 of 12, top-3, 2 positions, warm: ours 1.000 ms, theirs 2.000, ratio 2.00 (aim: 1.2)" in warm.text
    assert "cold" in cold.text
    assert warm.holds
    assert cold.holds


PAIR = transformers_experts.pair(SMALL, width=512)


def test_an_older_transformers_is_named_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_experts, "version", {"transformers": "4.57.1"}.get)
    (line,) = transformers_experts.speed()
    assert "not timed, since 4.57.1" in line.text
