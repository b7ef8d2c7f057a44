"""What parts read of a step is worked out when they read it, from the canvas before the step."""

import pytest
import torch
from quicksilver.decoders import (
    Decoder,
    Greedy,
    Linear,
    Recompute,
    Request,
    StepState,
    TopProbability,
    Unbounded,
    Whole,
)
from quicksilver.models import Bidirectional

from tests.conftest import MASK_ID, TableModel

M = MASK_ID


def first_state(*requests: Request) -> StepState:
    """The state before the first step of a decode."""
    decoder = Decoder(Whole(), Linear(2), Greedy(), TopProbability(), Recompute())
    run = decoder.begin(TableModel(Bidirectional()), requests)
    return run.state(decoder.schedule, decoder.begin_block(run, 0), 0)


def test_it_is_read_off_the_canvas() -> None:
    state = first_state(Request([1, 2, M, 3, M, M], start=2, seed=7), Request([1, M, 5, M], start=1, seed=9))
    assert state.query_BQ.tolist() == [[2, 3, 4, 5], [1, 2, 3, 6]]
    assert state.masked_BQ.tolist() == [[True, False, True, True], [True, False, True, False]]
    assert state.num_masked_B.tolist() == state.num_masked_at_start_B.tolist() == [3, 2]
    assert state.canvas_token_BQ.tolist() == [[M, 3, M, M], [M, 5, M, 0]]
    assert state.seed_B.tolist() == [7, 9]
    assert state.step_B.tolist() == [0, 0]
    assert state.window.size_B is not None
    assert state.window.size_B.tolist() == [4, 3]
    assert state.quota.at_least_B.tolist() == state.quota.at_most_B.tolist() == [2, 1]
    assert state.times.before.tolist() == [1, 1]
    assert state.times.after.tolist() == [0.5, 0.5]
    assert (state.max_masked, state.max_masked_before) == (3, 3)


def test_what_may_be_revised_was_committed_in_a_row_that_is_not_finished() -> None:
    state = first_state(Request([M, 3, M]), Request([M, 3, M]))
    position_B1, everywhere_B1 = torch.tensor([[0], [0]]), torch.ones(2, 1, dtype=torch.bool)
    state.canvas.commit(position_B1, everywhere_B1, position_B1 + 4, torch.full((2, 1), -0.5), state.step_B)
    state.unfinished_B[1] = False
    assert state.revisable_BQ.tolist() == [[True, False, False], [False] * 3]
    assert state.commit_log_prob_BQ.tolist() == [[-0.5, 0, 0]] * 2


def test_nothing_is_computed_before_it_is_read() -> None:
    state = first_state(Request([M, 3, M]))
    names = {"masked_BQ", "num_masked_B", "revisable_BQ", "canvas_token_BQ", "commit_log_prob_BQ", "quota", "times"}
    assert not names & vars(state).keys()
    assert state.num_masked_B.tolist() == [2]
    assert names & vars(state).keys() == {"masked_BQ", "num_masked_B"}
    assert state.masked_BQ is state.masked_BQ


def test_of_counts_alone_it_is_at_any_step() -> None:
    start = StepState.of_counts(Linear(4), torch.tensor([8, 5]), size=8)
    assert start.quota.at_least_B.tolist() == [2, 2]
    later = start.at_step(1, torch.tensor([6, 1]))
    assert (later.index, later.step_B.tolist()) == (1, [1, 1])
    assert later.quota.at_least_B.tolist() == [2, 1]
    assert later.times.after.tolist() == [0.5, 0.5]


def test_times_that_the_schedule_has_not_are_an_error_with_the_remedy() -> None:
    state = StepState.of_counts(Unbounded(), torch.tensor([3]), size=3)
    with pytest.raises(ValueError, match=r"schedule Unbounded\(\): has no diffusion times; .* declare needs_times"):
        _ = state.times
