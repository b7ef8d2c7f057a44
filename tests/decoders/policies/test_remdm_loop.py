"""Three phases: decide, exchange tokens, decide the rest."""

import math
from typing import Any

import numpy as np
import pytest
from quicksilver.decoders import RemdmLoop

from tests.decoders.policies.conftest import (
    MakeInputs,
    check_rows_have_times_of_their_own,
    committed,
    inputs_of,
    places,
)

NUM = 20_000
LOOP = RemdmLoop(eta=0.1, hold_from=0.6, hold_until=0.2, alpha=0.8)


def published(t: float, dt: float) -> tuple[float, float]:
    """The probabilities that a mask is decided and that a decided token returns, in a step from t to t - dt, as the
    published code has them for LOOP."""
    if 0.2 < t <= 0.6:
        return (0.8 - (1 - 0.1) * 0.8) / (1 - 0.8), 0.1
    if t > 0.6:
        move_t, move_s = 1 - (1 - t) * 0.8 / (1 - 0.6), 1 - (1 - t + dt) * 0.8 / (1 - 0.6)
    else:
        move_t, move_s = t * (1 - 0.8) / 0.2, (t - dt) * (1 - 0.8) / 0.2
    return 1 - move_s / move_t, 0.0


@pytest.mark.parametrize(("t", "dt"), [
    (1.0, 0.1), (0.8, 0.1), (0.61, 0.01), (0.6, 0.1), (0.4, 0.1), (0.2, 0.1), (0.1, 0.05)])
def test_a_step_within_a_phase_is_the_published_one(t: float, dt: float) -> None:
    masked = np.arange(NUM) % 2 == 0
    edit = LOOP.select(*inputs_of(masked=masked.tolist(), times=(t, t - dt), at_least=0))
    decided, returned = published(t, dt)
    for found, probability in ((committed(edit), decided), (places(edit.remask_BQ), returned)):
        deviation = math.sqrt(NUM / 2 * probability * (1 - probability))
        assert abs(len(found) - NUM / 2 * probability) <= 5 * deviation
    assert bool(edit.unfinished_B)


@pytest.mark.parametrize("steps", [20, 13, 7, 3])
def test_the_share_of_masks_falls_stays_and_falls_again(steps: int) -> None:
    """Also where steps lead from one phase into the next, as all but those of twenty do."""
    masked, shares = np.ones(NUM, dtype=bool), []
    for step in range(steps):
        edit = LOOP.select(*inputs_of(masked=masked.tolist(), step=step, at_least=0,
                                     times=(1 - step / steps, 1 - (step + 1) / steps)))
        masked[committed(edit)], masked[places(edit.remask_BQ)] = False, True
        shares.append(masked.mean())
    times = 1 - np.arange(1, steps + 1) / steps
    wanted = np.interp(times, [0, 0.2, 0.6, 1], [0, 0.2, 0.2, 1])
    np.testing.assert_allclose(shares, wanted, atol=5 * math.sqrt(0.25 / NUM))
    assert not masked.any()


def test_the_end_decides_everything_even_within_the_hold(make: MakeInputs) -> None:
    for before in (1.0, 0.5, 0.1, 0.0):
        edit = RemdmLoop(0.1).select(*make(masked=[True, False] * 200, times=(before, 0.0), at_least=0))
        assert committed(edit) == list(range(0, 400, 2))
        assert places(edit.remask_BQ) == []
        assert not bool(edit.unfinished_B)


def test_each_row_has_a_time_of_its_own() -> None:
    check_rows_have_times_of_their_own(LOOP, *(
        inputs_of(masked=[True, False] * 50, seed=seed, times=times, at_least=0)
        for seed, times in enumerate([(1.0, 0.8), (0.5, 0.4), (0.2, 0.1), (0.1, 0.0)])))


@pytest.mark.parametrize(("field", "allowed"), [
    ({"eta": 0.2}, "eta=0.2: must be a number at least 0 and at most 0.11"), ({"eta": -0.1}, "eta=-0.1"),
    ({"hold_from": 1.0}, "hold_from=1.0: must be a number above 0 and at most 0.999"),
    ({"hold_from": 0}, "hold_from=0: must be"),
    ({"hold_until": 0.6}, "hold_until=0.6: must be a number above 0 and at most 0.55"),
    ({"hold_until": 0}, "hold_until=0"), ({"alpha": 1}, "alpha=1: must be"), ({"alpha": None}, "alpha=None")])
def test_bad_ranges_are_refused(field: dict[str, Any], allowed: str) -> None:
    with pytest.raises(ValueError, match=allowed):
        RemdmLoop(**{"eta": 0.02} | field)
