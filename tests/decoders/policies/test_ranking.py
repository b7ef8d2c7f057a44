"""`best` against sorting by hand."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quicksilver.decoders.policies.ranking import best

from .conftest import situation


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.booleans()), min_size=1, max_size=9),
       st.integers(0, 9))
def test_best_is_sorting_by_score_then_position(entries: list[tuple[float, bool]], count: int) -> None:
    score = torch.tensor([[score for score, _ in entries]])
    eligible = [is_eligible for _, is_eligible in entries]
    ordered = sorted((i for i, (_, ok) in enumerate(entries) if ok), key=lambda i: (-entries[i][0], i))
    given = situation(eligible=eligible, at_least=0, at_most=count)
    chosen = best(given, score).commit_BQ[0].nonzero().flatten().tolist()
    assert chosen == sorted(ordered[:count])
