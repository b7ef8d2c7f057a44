"""The measured machine: rates that are there, of the dtype that was asked for."""

from quicksilver.experiments.harness import machine


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
