"""Selection by rank against sorting by hand."""

from fractions import Fraction

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quicksilver.decoders.policies.ranking import keep_top_fraction, select_passing_first, select_top

from tests.decoders.policies.conftest import committed, inputs_of, rows

ENTRIES = st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.booleans()), min_size=1, max_size=9)


@settings(max_examples=60, deadline=None)
@given(ENTRIES, st.integers(0, 9))
def test_the_top_is_sorting_by_score_then_position(entries: list[tuple[float, bool]], count: int) -> None:
    score = torch.tensor([[score for score, _ in entries]])
    masked = [is_masked for _, is_masked in entries]
    ordered = sorted((i for i, (_, ok) in enumerate(entries) if ok), key=lambda i: (-entries[i][0], i))
    given = inputs_of(masked=masked, at_least=0, at_most=count)
    assert committed(select_top(given.state, score)) == sorted(ordered[:count])


def test_those_that_pass_come_first_then_the_most_probable() -> None:
    for number, row in enumerate(rows(300)):
        passing = [i for i in range(len(row.masked)) if (i * 7 + number) % 3 == 0]
        passing_BQ = torch.tensor([[i in passing for i in range(len(row.masked))]])
        found = select_passing_first(row.inputs().state, passing_BQ, torch.tensor([row.log_prob]))
        assert committed(found) == row.preferring(passing)


def test_an_impossible_token_passes_and_fills_up_last() -> None:
    log_prob = [-torch.inf, -1.0, -torch.inf, -2.0]
    passing_BQ = torch.tensor([[True, False, False, False]])
    for at_least, expected in ((1, [0]), (2, [0, 1]), (3, [0, 1, 3]), (4, [0, 1, 2, 3])):
        given = inputs_of(masked=[True] * 4, at_least=at_least, at_most=4)
        assert committed(select_passing_first(given.state, passing_BQ, torch.tensor([log_prob]))) == expected


@settings(max_examples=60, deadline=None)
@given(ENTRIES, st.integers(0, 8))
def test_the_top_fraction_is_all_but_the_masked_share(entries: list[tuple[float, bool]], eighths: int) -> None:
    ordered = sorted((i for i, (_, ranked) in enumerate(entries) if ranked), key=lambda i: (-entries[i][0], i))
    score_BQ, ranked_BQ = torch.tensor([[score for score, _ in entries]]), torch.tensor([[ok for _, ok in entries]])
    kept_BQ = keep_top_fraction(score_BQ, ranked_BQ, torch.tensor([eighths / 8]))
    num_kept = len(ordered) - len(ordered) * eighths // 8
    assert kept_BQ[0].nonzero().flatten().tolist() == sorted(ordered[:num_kept])


def test_a_share_of_steps_is_rounded_down_exactly_however_it_is_computed() -> None:
    num_B = torch.arange(65)
    ranked_BQ = torch.arange(64) < num_B[:, None]
    for steps in (3, 5, 7, 10, 33, 49, 64):
        for left in range(steps + 1):
            wanted = [num - int(Fraction(num * left, steps)) for num in num_B.tolist()]
            for share in (left / steps, 1 - (steps - left) / steps, 1 - (steps - left) * (1 / steps)):
                kept_BQ = keep_top_fraction(torch.zeros(65, 64), ranked_BQ, torch.tensor([share], dtype=torch.float64))
                assert kept_BQ.sum(1).tolist() == wanted


def test_rows_may_differ_in_their_share() -> None:
    share_B = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    kept_BQ = keep_top_fraction(torch.zeros(3, 4), torch.ones(3, 4, dtype=torch.bool), share_B)
    assert kept_BQ.sum(1).tolist() == [0, 2, 4]
