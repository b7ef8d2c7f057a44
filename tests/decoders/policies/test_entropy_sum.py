"""The lowest entropies are committed while their sum stays small."""

import pytest
from quicksilver.decoders import EntropyBound, EntropySum

from tests.decoders.policies.conftest import MakeInputs, committed, rows

ENTROPY = [0.5, 0.125, 2.0, 0.25, 0.0]


@pytest.mark.parametrize(("gamma", "at_least", "at_most", "expected"), [
    (0.125, 1, 5, [4]),  # 0 + 0.125: equality does not pass
    (0.126, 1, 5, [1, 4]),
    (0.4, 1, 5, [1, 3, 4]),
    (9.0, 1, 5, [0, 1, 2, 3, 4]),
    (9.0, 1, 2, [1, 4]),
    (0.1, 3, 5, [1, 3, 4]),
])
def test_a_case_worked_by_hand(make: MakeInputs, gamma: float, at_least: int, at_most: int, expected: list[int]
                               ) -> None:
    edit = EntropySum(gamma).select(*make(entropy=ENTROPY, masked=[True] * 5, at_least=at_least, at_most=at_most))
    assert committed(edit) == expected


def test_the_rule_may_let_nothing_pass(make: MakeInputs) -> None:
    for at_least, expected in ((0, []), (1, [0])):
        edit = EntropySum(0.1).select(*make(entropy=[0.5, 0.7], masked=[True] * 2, at_least=at_least, at_most=2))
        assert committed(edit) == expected


@pytest.mark.parametrize("gamma", [0.1, 0.4, 1.7])
def test_it_is_the_rule_as_engines_write_it_and_stricter_than_the_bound(gamma: float) -> None:
    for row in rows(150):
        entropy = [4 * (1 - p) for p in row.probability]
        best_first = sorted(row.masks, key=lambda i: (entropy[i], i))
        fitting = [n for n in range(1, len(best_first) + 1) if sum(entropy[i] for i in best_first[:n]) < gamma]
        found = committed(EntropySum(gamma).select(*row.inputs(entropy=entropy)))
        assert found == row.first(best_first, max(fitting, default=0))
        assert set(found) <= set(committed(EntropyBound(gamma).select(*row.inputs(entropy=entropy))))


@pytest.mark.parametrize("gamma", [0, -0.1, None])
def test_a_bad_sum_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma=.*: must be a number above 0"):
        EntropySum(gamma)
