"""Captured steps: the tokens, trace and counts of steps that are taken, and when nothing is captured."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from quicksilver.decoders import (
    Append,
    Cache,
    CapturedSteps,
    Completion,
    Decoder,
    Request,
    StepState,
    Windows,
    generate,
    presets,
)
from quicksilver.kernels.batch_invariance import batch_invariant
from quicksilver.kernels.dispatch import Implementation, named, recording, using
from quicksilver.models import Bidirectional, Causal, DecodableTransformer, KVStore, LanguageModel, Plan
from torch import Tensor

from tests.conftest import MASK_ID, TableModel, random_model
from tests.decoders.recorded_decodes import Recorded, read

REQUESTS = [Request.completing([1, 2, 3, row], 8, mask_id=MASK_ID, seed=row) for row in range(2)]
AUTOREGRESSIVE = presets.autoregressive()


@pytest.mark.parametrize("recorded", [
    pytest.param(recorded, id=name, marks=[] if name.startswith("preset") and "ragged" in name else [pytest.mark.slow])
    for name, recorded in read().items()])
def test_replayed_steps_are_those_recorded_before_there_were_any(recorded: Recorded) -> None:
    found, runner = recorded.captured()
    recorded.check(found)
    assert runner.replays.replayed > 0
    assert not runner.replays.reasons


@dataclass(frozen=True)
class OwnCache(Cache):
    """A cache as it is written without a thought of capturing."""

    is_exact: ClassVar[bool] = True

    def check_model(self, model: LanguageModel, windows: Windows) -> None:
        pass

    def plan(self, state: StepState) -> Plan:
        return Append().plan(state)


class Reading(DecodableTransformer):
    """A model that reads on the host."""

    def hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        assert MASK_ID not in tokens_BS[:, 0].tolist()
        return super().hidden(tokens_BS, plan, store)


def reading(model: DecodableTransformer) -> Reading:
    return Reading(model.transformer, model.mask_id, model.shift)


def tokens(completions: list[Completion]) -> list[list[int]]:
    return [completion.tokens for completion in completions]


def decoded(runner: CapturedSteps, model: LanguageModel) -> list[list[int]]:
    return tokens(generate(model, runner.decoder, REQUESTS, runner=runner).completions)


def test_the_first_step_of_a_layout_is_taken_the_second_captured_and_the_others_replayed() -> None:
    model, runner = random_model(Causal()), CapturedSteps(AUTOREGRESSIVE)
    decoded(runner, model)
    # The prompt's step, then seven of one token each.
    assert (runner.replays.taken, runner.replays.captured, runner.replays.replayed) == (2, 1, 5)
    decoded(runner, model)
    assert (runner.replays.taken, runner.replays.captured, runner.replays.replayed) == (2, 2, 12)


def test_weights_that_change_between_decodes_are_seen() -> None:
    model, other = random_model(Causal()), random_model(Causal(), seed=1)
    runner = CapturedSteps(AUTOREGRESSIVE)
    before = [decoded(runner, model) for _ in range(2)]
    assert before[0] == before[1] == tokens(AUTOREGRESSIVE.decode(model, REQUESTS))
    assert decoded(runner, other) == tokens(AUTOREGRESSIVE.decode(other, REQUESTS)) != before[0]
    model.transformer.load_state_dict(other.transformer.state_dict())
    assert decoded(runner, model) == decoded(runner, other)


def test_a_decode_begun_within_another_has_memory_of_its_own() -> None:
    model, runner = random_model(Causal()), CapturedSteps(AUTOREGRESSIVE)
    expected = tokens(AUTOREGRESSIVE.decode(model, REQUESTS))
    decoded(runner, model)
    outer = AUTOREGRESSIVE.begin(model, REQUESTS)
    for number, _ in enumerate(AUTOREGRESSIVE.stream(outer, runner)):
        if number == 3:
            other = [replace(request, tokens=[5, *request.tokens[1:]]) for request in REQUESTS]
            generate(model, AUTOREGRESSIVE, other, runner=runner)
    assert tokens(AUTOREGRESSIVE.completions(outer)) == expected


def test_a_decode_that_stops_early_keeps_what_it_decoded() -> None:
    model, runner = random_model(Causal()), CapturedSteps(AUTOREGRESSIVE)
    expected = tokens(AUTOREGRESSIVE.decode(model, REQUESTS))
    run = AUTOREGRESSIVE.begin(model, REQUESTS)
    with closing(AUTOREGRESSIVE.stream(run, runner)) as steps:
        for _ in range(4):
            next(steps)
    generate(model, AUTOREGRESSIVE, [Request.completing([9, 9, 9, 9], 8, mask_id=MASK_ID)] * 2, runner=runner)
    stopped = tokens(AUTOREGRESSIVE.completions(run))
    assert [row[:8] for row in stopped] == [row[:8] for row in expected]
    assert all(row[8:] == 4 * [MASK_ID] for row in stopped)


def test_settings_that_choose_other_operators_have_steps_of_their_own() -> None:
    model, runner = random_model(Bidirectional()), CapturedSteps(presets.threshold())
    expected = tokens(runner.decoder.decode(model, REQUESTS))
    with using(Implementation.REFERENCE):
        assert decoded(runner, model) == expected
        with recording() as ran:
            assert decoded(runner, model) == expected
    assert set(named(ran).values()) == {"reference"}
    with recording() as ran:
        assert decoded(runner, model) == expected
    assert "cpu" in named(ran).values()
    with batch_invariant(True):
        assert decoded(runner, model) == tokens(runner.decoder.decode(model, REQUESTS))


def test_what_ran_is_on_record_of_a_decode_that_only_replays() -> None:
    model, runner = random_model(Bidirectional()), CapturedSteps(presets.threshold())
    with recording() as first:
        decoded(runner, model)
    for _ in range(2):
        decoded(runner, model)
    taken = runner.replays.taken
    with recording() as last:
        decoded(runner, model)
    assert runner.replays.taken == taken
    assert last == first


def test_non_finite_logits_are_found_in_a_replay() -> None:
    model, runner = random_model(Causal()), CapturedSteps(AUTOREGRESSIVE)
    for _ in range(2):
        decoded(runner, model)
    run = AUTOREGRESSIVE.begin(model, REQUESTS)
    replayed = runner.replays.replayed
    steps = AUTOREGRESSIVE.stream(run, runner)
    for _ in range(3):
        next(steps)
    assert run.store is not None
    with torch.inference_mode():
        run.store.values_NBLKD[:, 1, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="position 7 of request 1"):
        list(steps)
    assert runner.replays.replayed > replayed


@pytest.mark.parametrize(("make", "reason"), [
    (lambda: (TableModel(Causal()), AUTOREGRESSIVE), "TableModel does not tell its constants"),
    (lambda: (random_model(Causal()), replace(AUTOREGRESSIVE, cache=OwnCache())),
     "the cache does not tell its layouts"),
    (lambda: (reading(random_model(Causal())), AUTOREGRESSIVE), "Tensor.tolist reads values on the host")])
def test_what_cannot_be_captured_is_taken_as_ever_with_the_reason(
        make: Callable[[], tuple[LanguageModel, Decoder]], reason: str) -> None:
    model, decoder = make()
    runner = CapturedSteps(decoder)
    for _ in range(2):
        assert decoded(runner, model) == tokens(decoder.decode(model, REQUESTS))
    assert runner.replays.replayed == 0
    assert runner.replays.reasons == {reason}


def test_no_more_steps_are_held_than_allowed_and_no_more_memory() -> None:
    model, runner = random_model(Causal()), CapturedSteps(AUTOREGRESSIVE, max_programs=1)
    for _ in range(3):
        decoded(runner, model)
    assert runner.replays.reasons == {"more than 1 layouts"}
    assert runner.replays.captured == 1
    for rows in range(1, 9):
        generate(model, AUTOREGRESSIVE, rows * REQUESTS, runner=runner)
    assert len(runner._frames) == 4


def test_numbers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="max_programs=-1"):
        CapturedSteps(AUTOREGRESSIVE, max_programs=-1)
