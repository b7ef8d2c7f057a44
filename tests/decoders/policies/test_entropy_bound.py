"""The lowest entropies are committed while their sum without the largest stays small."""

import pytest
from quicksilver.decoders import EntropyBound

from tests.decoders.policies.conftest import MakeInputs, committed, rows

ENTROPY = [0.5, 0.125, 2.0, 0.25, 0.0]


@pytest.mark.parametrize(("gamma", "at_least", "at_most", "expected"), [
    (0.0, 1, 5, [1, 4]),  # nothing is lost by adding one position to a sure one
    (0.125, 1, 5, [1, 3, 4]),  # 0 + 0.125: equality passes
    (0.124, 1, 5, [1, 4]),
    (0.4, 1, 5, [0, 1, 3, 4]),  # 0 + 0.125 + 0.25, and not 0.5 too
    (9.0, 1, 5, [0, 1, 2, 3, 4]),
    (9.0, 1, 2, [1, 4]),
    (0.0, 4, 5, [0, 1, 3, 4]),
])
def test_a_case_worked_by_hand(make: MakeInputs, gamma: float, at_least: int, at_most: int, expected: list[int]
                               ) -> None:
    edit = EntropyBound(gamma).select(*make(entropy=ENTROPY, masked=[True] * 5, at_least=at_least, at_most=at_most))
    assert committed(edit) == expected


def test_what_is_not_masked_costs_nothing(make: MakeInputs) -> None:
    edit = EntropyBound(0.25).select(*make(entropy=ENTROPY, masked=[True, False, True, True, False], at_least=0,
                                             at_most=3))
    assert committed(edit) == [0, 3]


@pytest.mark.parametrize("gamma", [0.0, 0.4, 1.7])
def test_it_is_the_papers_rule(gamma: float) -> None:
    for row in rows(150):
        entropy = [4 * (1 - p) for p in row.probability]
        best_first = sorted(row.masks, key=lambda i: (entropy[i], i))
        sets = [[entropy[i] for i in best_first[:n]] for n in range(1, len(best_first) + 1)]
        largest = max((len(values) for values in sets if sum(values) - max(values) <= gamma), default=0)
        assert committed(EntropyBound(gamma).select(*row.inputs(entropy=entropy))) == row.first(best_first, largest)


@pytest.mark.parametrize("gamma", [-0.1, None, "abc"])
def test_a_bad_bound_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma=.*: must be a number at least 0"):
        EntropyBound(gamma)
