"""Our weights in transformers' Llama give our greedy tokens."""

from typing import Any

import pytest
from quicksilver.experiments.peers import transformers
from quicksilver.experiments.peers.agreement import Turns
from quicksilver.models import Shape

from tests.experiments.peers.stand_ins import measured


@pytest.mark.slow
def test_a_llama_with_our_weights_decodes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    shape = Shape(width=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_width=48, position_table=False)
    monkeypatch.setattr(transformers, "SHAPES", {"0.85M": (shape, 32)})
    (found,) = measured(transformers.agreement(num_models=2))
    assert found.holds
    assert (found.num_decodes, found.num_same) == (2, 2)
    monkeypatch.setattr(transformers, "interleaved", lambda ours, theirs, rounds: Turns([0.064], [0.128]))
    beside: list[Any] = []

    def timed(engines: dict[str, Any], theirs: Any, rounds: int) -> tuple[str, dict[str, int]]:
        beside.append(theirs.__name__)
        return f"    {len(engines)} engines", {name: len(beside) for name in engines}

    monkeypatch.setattr(transformers, "timed_engines", timed)
    (timing,) = measured(transformers.speed())
    assert "ours 1.000 ms a token, theirs 2.000, ratio 2.00\n    3 engines\n    beside F.linear" in timing.text
    assert beside == ["theirs", "linear_floor"]
    name = "products by F.linear, steps compiled"
    assert [timing.figures[part][name] for part in ("engines", "engines_beside_linear")] == [1, 2]
    assert timing.figures["ours_tokens_per_second"] == pytest.approx(1000)
