"""The surest positions are kept, decided or not, as many as the time says."""

import numpy as np
import pytest
from quicksilver.decoders import PathPlanning

from tests.decoders.policies.conftest import (
    MakeInputs,
    check_rows_have_times_of_their_own,
    committed,
    inputs_of,
    places,
)

MASKS = [True, True, False, False, True]
PROPOSED, HELD = [-0.5, -1.0, -0.1, -0.1, -3.0], [-9.0, -9.0, -0.75, -2.0, -9.0]


@pytest.mark.parametrize(("eta", "after", "decided", "returned"), [
    (1.0, 0.2, [0, 1], []),  # of -0.5, -0.75, -1, -2 and -3 four stay
    (1.0, 0.4, [0, 1], [3]),
    (1.0, 0.6, [0], [3]),
    (1.0, 0.8, [0], [2, 3]),
    (1.0, 0.5, [0, 1], [3]),  # 2.5 are masked: 2
    (0.0, 0.6, [], []),  # decided ones come first
    (0.0, 0.4, [0], []),
    (0.5, 0.4, [0, 1], [3]),  # -1 and 0.5 x -2 tie: the lower position
    (2.0, 0.2, [0, 1, 4], [3]),  # -4 lies below -3
    (2.0, 0.6, [0, 1], [2, 3]),
    (1.0, 0.0, [0, 1, 4], []),
    (1.0, 1.0, [], [2, 3]),
])
def test_a_case_worked_by_hand(make: MakeInputs, eta: float, after: float, decided: list[int], returned: list[int]
                               ) -> None:
    edit = PathPlanning(eta).select(*make(masked=MASKS, log_prob=PROPOSED, canvas_log_prob=HELD, at_least=0,
                                            times=(1.0, after)))
    assert committed(edit) == decided
    assert places(edit.remask_BQ) == returned
    assert edit.unfinished_B is not None
    assert bool(edit.unfinished_B) == (after > 0)


def test_given_tokens_neither_rank_nor_return(make: MakeInputs) -> None:
    edit = PathPlanning().select(*make(masked=MASKS, given=[False, False, False, True, False], log_prob=PROPOSED,
                                         canvas_log_prob=HELD, times=(1.0, 0.75)))
    assert committed(edit) == [0]  # one of four stays
    assert places(edit.remask_BQ) == [2]


def test_no_mask_is_as_sure_as_a_decided_token_of_weight_zero(make: MakeInputs) -> None:
    edit = PathPlanning(0.0).select(*make(masked=[True, True, False], log_prob=[0.0, -0.0, -1.0],
                                            canvas_log_prob=[0.0, 0.0, -9.0], times=(1.0, 0.7)))
    assert committed(edit) == []
    assert places(edit.remask_BQ) == []


@pytest.mark.parametrize("eta", [0.0, 1.0, 3.0])
def test_a_token_that_has_become_impossible_ranks_last_of_the_decided(make: MakeInputs, eta: float) -> None:
    edit = PathPlanning(eta).select(*make(masked=[False, False, True], log_prob=[-1.0] * 3, times=(1.0, 0.4),
                                            canvas_log_prob=[-np.inf, -5.0, -1.0]))
    assert committed(edit) == ([] if eta == 0 else [2])
    assert places(edit.remask_BQ) == ([] if eta == 0 else [0])


def lowest_masked(score: np.ndarray, num_masked: int) -> set[int]:
    """What the published code masks: everything below the score that comes after the lowest `num_masked`."""
    cut_off = [*sorted(score.tolist()), np.inf][num_masked]
    return {i for i, value in enumerate(score.tolist()) if value < cut_off}


def test_it_is_the_published_rule_with_decided_tokens_judged_by_themselves() -> None:
    rng, num_returned, num_unlike_published = np.random.default_rng(0), 0, 0
    for _ in range(300):
        num, steps = int(rng.integers(1, 12)), int(rng.integers(1, 9))
        step, eta = int(rng.integers(0, steps)), float(rng.choice([0.0, 0.5, 1.0, 2.0]))
        masked, fixed = rng.random(num) < 0.5, rng.random(num) < 0.2
        masked &= ~fixed
        drawn, held = -rng.exponential(size=num), -rng.exponential(size=num)
        keeps = rng.random() < 0.5  # the model proposes what stands there
        held = np.where(keeps, drawn, held)
        num_masked = int((~fixed).sum()) * (steps - step - 1) // steps
        judged, published = (np.where(fixed, np.inf, np.where(masked, drawn, eta * own)) for own in (held, drawn))
        edit = PathPlanning(eta).select(*inputs_of(
            masked=masked.tolist(), given=fixed.tolist(), log_prob=drawn.tolist(), canvas_log_prob=held.tolist(),
            times=(1 - step / steps, 1 - (step + 1) / steps)))
        if eta:
            lowest = lowest_masked(judged, num_masked)
            assert set(committed(edit)) == {i for i in range(num) if masked[i]} - lowest
            assert set(places(edit.remask_BQ)) == {i for i in range(num) if not masked[i]} & lowest
            num_returned += len(places(edit.remask_BQ))
            unlike = lowest != lowest_masked(published, num_masked)
            assert not (unlike and keeps)
            num_unlike_published += unlike
        else:
            sure = int((~fixed & ~masked).sum())
            assert len(places(edit.remask_BQ)) == max(sure - (int((~fixed).sum()) - num_masked), 0)
    assert num_returned > 50
    assert num_unlike_published > 20


def test_each_row_has_a_time_of_its_own() -> None:
    check_rows_have_times_of_their_own(PathPlanning(), *(
        inputs_of(masked=MASKS, log_prob=PROPOSED, canvas_log_prob=HELD, times=(1.0, after))
        for after in (0.8, 0.4, 0.0)))


@pytest.mark.parametrize("eta", [-0.1, None, "abc", 1e31])
def test_a_bad_weight_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match="eta=.*: must be a number at least 0"):
        PathPlanning(eta)
