"""A step as its requests see it."""

from quicksilver.decoders import (
    Blocks,
    Decoder,
    Free,
    Greedy,
    Linear,
    PathPlanning,
    RandomOrder,
    Recompute,
    TopProbability,
    Whole,
)
from quicksilver.models import Bidirectional

from tests.conftest import MASK_ID, TableModel, ragged_requests


def test_each_request_has_its_own_positions_what_was_masked_and_what_was_changed() -> None:
    """In the order of the batch, from which rows leave; so that the canvas follows from the steps."""
    decoder = Decoder(Blocks(4), Linear(2), Greedy(), TopProbability(), Recompute(), end_id=5)
    requests = ragged_requests(4, seed=1, block=4)
    canvas, numbers = [list(request.tokens) for request in requests], set[int]()
    for step in decoder.stream(decoder.begin(TableModel(Bidirectional()), requests)):
        assert tuple(one.request for one in step.by_request()) == step.rows
        numbers.add(len(step.rows))
        for place, one in enumerate(step.by_request()):
            tokens = canvas[one.request]
            real_Q = one.position_Q < len(tokens)
            assert [tokens[position] == MASK_ID for position in one.position_Q[real_Q]] == one.masked_Q[real_Q].tolist()
            assert not one.masked_Q[~real_Q].any()
            assert not one.remask_Q.any()
            assert one.log_prob_Q is not None
            for position, token in zip(one.position_Q[one.commit_Q], one.token_Q[one.commit_Q], strict=True):
                tokens[position] = int(token)
            assert step.canvas.tokens_BS[place, : len(tokens)].tolist() == tokens
    assert len(numbers) > 1, "rows should leave the batch"


def test_what_returns_to_mask_is_told_apart_and_log_probabilities_are_there_where_they_are_declared() -> None:
    remasking = Decoder(Whole(), Free(Linear(4)), Greedy(), PathPlanning(2.0), Recompute())
    steps = list(remasking.stream(remasking.begin(TableModel(Bidirectional()), ragged_requests(2))))
    assert any(one.remask_Q.any() for step in steps for one in step.by_request())
    assert not any((one.remask_Q & one.commit_Q).any() for step in steps for one in step.by_request())
    unranked = Decoder(Whole(), Linear(2), Greedy(), RandomOrder(), Recompute())
    for step in unranked.stream(unranked.begin(TableModel(Bidirectional()), ragged_requests(2))):
        assert all(one.log_prob_Q is None for one in step.by_request())
