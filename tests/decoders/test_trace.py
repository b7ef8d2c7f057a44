"""A trace against the canvas that was traced, revising policies included."""

import json

import pytest
from quicksilver.decoders import (
    Append,
    Blocks,
    Capped,
    Categorical,
    Change,
    Decoder,
    Free,
    Greedy,
    GridBlocks,
    Leftmost,
    Linear,
    PathPlanning,
    RandomOrder,
    Recompute,
    Redecide,
    Remdm,
    Threshold,
    TokenEditing,
    TopProbability,
    Trace,
    TraceStep,
    Unbounded,
    Whole,
)
from quicksilver.models import AttentionPattern, Bidirectional, BlockCausal, Causal

from tests.conftest import MASK_ID, TableModel, ragged_requests

PLAIN = [(Decoder(Whole(), Linear(4), Greedy(), TopProbability(), Recompute()), Bidirectional()),
         (Decoder(Blocks(4), Unbounded(), Greedy(), Threshold(0.6), Recompute()), Bidirectional()),
         (Decoder(Whole(), Linear(5), Categorical(1.0), RandomOrder(), Recompute()), Bidirectional()),
         (Decoder(Blocks(1), Linear(1), Greedy(), Leftmost(), Append(), end_id=3), Causal())]
REVISING = [(Decoder(Whole(), Free(Linear(6)), Categorical(1.0), policy, Recompute()), Bidirectional())
            for policy in (Remdm(Capped(0.3)), Redecide(noise=0.5), PathPlanning())]
EDITING = [(Decoder(GridBlocks(4, num_revised=1), Unbounded(), Categorical(1.0), TokenEditing(0.3, 0.1, 4),
                    Recompute()), BlockCausal(4))]


def traced(decoder: Decoder, pattern: AttentionPattern, seed: int) -> tuple[Trace, list[list[list[int]]], list, dict]:
    """A trace, the canvas seen after each step, what came out, and the counts."""
    model, requests = TableModel(pattern, seed), ragged_requests(4, seed, block=4)
    decoding = decoder.begin(model, requests)
    canvas, canvases, steps = [list(request.tokens) for request in requests], [], []
    for step in decoder.stream(decoding):
        steps.append(TraceStep.of(step))
        for index, row in enumerate(step.rows):
            canvas[row] = step.canvas.tokens_BS[index, : len(requests[row].tokens)].tolist()
        canvases.append([list(row) for row in canvas])
    completions = decoder.completions(decoding)
    given = tuple(tuple(request.tokens) for request in requests)
    return Trace(MASK_ID, given, tuple(steps)), canvases, completions, vars(decoding.accounting)


@pytest.mark.parametrize(("decoder", "pattern"), [*PLAIN, *REVISING, *EDITING],
                         ids=lambda part: type(getattr(part, "policy", part)).__name__)
@pytest.mark.parametrize("seed", range(3))
def test_a_trace_replays_every_canvas_and_the_last_is_what_was_decoded(
        decoder: Decoder, pattern: AttentionPattern, seed: int) -> None:
    trace, canvases, completions, counts = traced(decoder, pattern, seed)
    assert list(trace.canvases()) == [[list(row) for row in trace.given], *canvases]
    assert trace.replay() == [completion.tokens for completion in completions]
    changes = [change for step in trace.steps for change in step.changes]
    assert sum(len(change.positions) for change in changes) == counts["tokens_committed"]
    assert sum(len(change.remasked) for change in changes) == counts["tokens_remasked"]


@pytest.mark.parametrize(("decoder", "pattern"), REVISING,
                         ids=lambda part: type(getattr(part, "policy", part)).__name__)
def test_revising_policies_are_traced_as_they_revise(decoder: Decoder, pattern: AttentionPattern) -> None:
    trace = traced(decoder, pattern, 0)[0]
    assert any(change.remasked for step in trace.steps for change in step.changes)


def test_editing_is_traced_as_a_second_commit() -> None:
    committed = [(change.row, position) for step in traced(*EDITING[0], 0)[0].steps for change in step.changes
                 for position in change.positions]
    assert len(set(committed)) < len(committed)


def test_a_trace_holds_the_log_probabilities_of_its_commits_where_the_policy_asks_for_them() -> None:
    for decoder, is_known in ((PLAIN[0][0], True), (PLAIN[2][0], False)):
        model, requests = TableModel(Bidirectional()), ragged_requests(2)
        decoding = decoder.begin(model, requests)
        for step in decoder.stream(decoding):
            for change in TraceStep.of(step).changes:
                stored = decoding.active.log_prob_BS[step.rows.index(change.row)]
                expected = tuple(stored[list(change.positions)].tolist())
                assert change.log_probs == (expected if is_known else None)


def test_a_trace_survives_json() -> None:
    trace = traced(*REVISING[0], 1)[0]
    assert Trace.from_json(json.loads(json.dumps(trace.to_json(), allow_nan=False))) == trace
    with pytest.raises(ValueError, match="not a trace: KeyError 'steps'"):
        Trace.from_json({"mask_id": 1, "given": []})


def test_within_a_step_commits_come_before_remasking() -> None:
    step = TraceStep(0, 0, (Change(0, (1, 2), (7, 8), None, (2,)),))
    assert Trace(9, ((5, 9, 9),), (step,)).replay() == [[5, 7, 9]]
    assert Trace(9, ((5, 9, 9),), ()).replay() == [[5, 9, 9]]
