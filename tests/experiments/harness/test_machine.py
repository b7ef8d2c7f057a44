"""The measured machine: rates that are there, of the dtype that was asked for, and those that were planted."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from quicksilver.experiments.harness import machine
from quicksilver.experiments.harness.roofline import Card
from quicksilver.kernels.case import Cost
from quicksilver.models import Causal


def test_every_rate_is_measured() -> None:
    card = machine.this_machine("float32", seconds=0.01)
    assert card.name
    assert card.bytes_per_second > 1e8
    assert list(card.flops_per_second) == ["float32"]
    assert card.flops_per_second["float32"] > 1e8
    assert 0 <= card.seconds_per_layer < 1
    assert 0 <= card.seconds_per_step < 1
    assert 0 <= card.seconds_per_row_value < 1
    assert 0 <= card.seconds_per_value < 1


def test_what_a_machine_takes_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes exactly what a card says, asked through the clock."""
    planted = Card("planted", 1e10, {"float32": 1e11}, seconds_per_step=1e-4, seconds_per_layer=1e-5,
                   seconds_per_value=1e-9, seconds_per_row_value=2e-9, cache_bytes=1 << 60)

    def decode(config: Any, decoder: Any, dtype: Any, requests: Any, capture: str) -> Callable[[], float]:
        is_causal, num_rows = isinstance(config.attention, Causal), len(requests)
        num_fed = num_rows if is_causal else num_rows * config.max_length
        cost = Cost(0, config.forward_flops(num_fed, num_fed * config.max_length, num_fed))
        steps = machine._NUM_NEW if is_causal else machine._NUM_STEPS
        return lambda: steps * planted.step_seconds(config.shape, num_rows, num_fed, cost, "float32")

    products = iter([machine._BYTES / planted.bytes_per_second,
                     2 * machine._ROWS * machine._WIDTH**2 / planted.flops_per_second["float32"]])
    monkeypatch.setattr(machine, "_decode", decode)
    monkeypatch.setattr(machine, "_least", lambda run, seconds: next(products, None) or run())
    found = machine.this_machine("float32", seconds=0)
    for name in ("bytes_per_second", "seconds_per_step", "seconds_per_layer", "seconds_per_value",
                 "seconds_per_row_value"):
        assert getattr(found, name) == pytest.approx(getattr(planted, name), rel=0.05), name
    assert replace(found, name="planted").flops_per_second == pytest.approx(planted.flops_per_second)
