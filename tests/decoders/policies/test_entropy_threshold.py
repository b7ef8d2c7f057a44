"""All that are certain enough are committed."""

import pytest
from quicksilver.decoders import EntropyThreshold

from tests.decoders.policies.conftest import MakeInputs, committed, rows

ENTROPY = [0.5, 0.125, 2.0, 0.25]


@pytest.mark.parametrize(("nats", "at_least", "at_most", "expected"), [
    (0.25, 1, 4, [1, 3]),  # equality passes
    (0.2499, 1, 4, [1]),
    (0.0, 1, 4, [1]),
    (0.0, 0, 4, []),
    (0.0, 3, 4, [0, 1, 3]),
    (3.0, 1, 4, [0, 1, 2, 3]),
    (3.0, 1, 2, [1, 3]),
])
def test_a_case_worked_by_hand(make: MakeInputs, nats: float, at_least: int, at_most: int, expected: list[int]) -> None:
    edit = EntropyThreshold(nats).select(*make(entropy=ENTROPY, masked=[True] * 4, at_least=at_least,
                                                 at_most=at_most))
    assert committed(edit) == expected


def test_what_is_not_masked_is_left(make: MakeInputs) -> None:
    edit = EntropyThreshold(0.3).select(*make(entropy=ENTROPY, masked=[True, False, True, True], at_most=3))
    assert committed(edit) == [3]


@pytest.mark.parametrize("nats", [0.5, 2.1])
def test_it_is_the_published_rule(nats: float) -> None:
    for row in rows(150):
        entropy = [4 * (1 - p) for p in row.probability]
        best_first = sorted(row.masks, key=lambda i: (entropy[i], i))
        num = sum(entropy[i] <= nats for i in row.masks)
        assert committed(EntropyThreshold(nats).select(*row.inputs(entropy=entropy))) == row.first(best_first, num)


@pytest.mark.parametrize("nats", [-0.1, None, True])
def test_a_bad_threshold_is_refused(nats: float) -> None:
    with pytest.raises(ValueError, match="nats=.*: must be a number at least 0"):
        EntropyThreshold(nats)
