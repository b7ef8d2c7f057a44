"""Captured steps: the tokens, trace and counts of steps that are taken, and when nothing is captured."""

import gc
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
    Recompute,
    Request,
    StepState,
    Windows,
    generate,
    presets,
    stream_generate,
)
from quicksilver.decoders.caches.base import Layout
from quicksilver.decoders.capture import Replays
from quicksilver.decoders.step_state import EXACT
from quicksilver.kernels import packed_experts, packed_linear
from quicksilver.kernels.batch_invariance import batch_invariant
from quicksilver.kernels.dispatch import Implementation, named, recording, using
from quicksilver.kernels.moe_router import Routing
from quicksilver.models import (
    AttentionPattern,
    Bidirectional,
    BlockCausal,
    Causal,
    DecodableTransformer,
    ExpertShape,
    KVStore,
    LanguageModel,
    MoELayer,
    Plan,
    with_routing_rule,
)
from quicksilver.models.routing_rules import BlockSharedExperts
from torch import Tensor

from tests.conftest import MASK_ID, TableModel, random_model, random_transformer
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


def test_steps_of_a_shifted_model_of_blocks_are_replayed() -> None:
    """Also where it first decodes from the row's first block on, and rows differ."""
    model, decoder = replace(random_model(BlockCausal(4)), shift=1), presets.block_diffusion(4, 4)
    runner = CapturedSteps(decoder)
    for lengths in ((1, 1), (5, 5), (1, 9), (9, 9), (1, 1)):
        requests = [Request.completing([1] * length, 16 - length, mask_id=MASK_ID) for length in lengths]
        wanted = tokens(replace(decoder, cache=Recompute()).decode(model, requests))
        assert tokens(decoder.decode(model, requests)) == wanted
        assert tokens(generate(model, decoder, requests, runner=runner).completions) == wanted
    assert runner.replays.replayed > runner.replays.taken


def test_weights_that_change_between_decodes_are_seen() -> None:
    model, other = random_model(Causal()), random_model(Causal(), seed=1)
    runner = CapturedSteps(AUTOREGRESSIVE)
    before = [decoded(runner, model) for _ in range(2)]
    assert before[0] == before[1] == tokens(AUTOREGRESSIVE.decode(model, REQUESTS))
    assert decoded(runner, other) == tokens(AUTOREGRESSIVE.decode(other, REQUESTS)) != before[0]
    model.transformer.load_state_dict(other.transformer.state_dict())
    assert decoded(runner, model) == decoded(runner, other)
    with torch.no_grad():
        model.transformer.head.weight.data = -model.transformer.head.weight
    assert decoded(runner, model) == tokens(AUTOREGRESSIVE.decode(model, REQUESTS)) != decoded(runner, other)


def test_packed_weights_are_taken_and_those_packed_anew_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "_IS_INTEL", False)
    monkeypatch.setattr(packed_linear, "_HAS_AVX512", True)
    monkeypatch.setitem(packed_linear.LEAST_BYTES, torch.float32, 1)
    model, runner = random_model(Causal()), CapturedSteps(AUTOREGRESSIVE)
    assert model.transformer.pack() > 0
    for _ in range(2):
        decoded(runner, model)
    with recording() as ran:
        before = decoded(runner, model)
    assert "packed" in named(ran)["linear"]
    assert before == tokens(AUTOREGRESSIVE.decode(model, REQUESTS))
    model.transformer.head.weight.data.mul_(-1)
    model.transformer.pack()
    assert decoded(runner, model) == tokens(AUTOREGRESSIVE.decode(model, REQUESTS)) != before


@pytest.mark.parametrize(("decoder", "pattern"), [(AUTOREGRESSIVE, Causal()), (presets.threshold(), Bidirectional())])
def test_mixtures_are_replayed_though_their_experts_are_read(decoder: Decoder, pattern: AttentionPattern) -> None:
    experts = ExpertShape(8, 16, Routing(2), shared_width=16, selection_bias=True)
    transformer = random_transformer(pattern, experts=experts)
    model = DecodableTransformer(transformer, MASK_ID, shift=int(pattern == Causal()))
    runner = CapturedSteps(decoder)
    for _ in range(3):
        assert decoded(runner, model) == tokens(decoder.decode(model, REQUESTS))
    assert runner.replays.replayed > 0
    assert not runner.replays.reasons


@pytest.mark.parametrize("compiles", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["replayed", "compiled"])
def test_packed_experts_are_taken_and_those_packed_anew_are_seen(compiles: bool, monkeypatch: pytest.MonkeyPatch
                                                                 ) -> None:
    monkeypatch.setattr(packed_linear, "_IS_INTEL", False)
    monkeypatch.setattr(packed_linear, "_HAS_AVX512", True)
    monkeypatch.setitem(packed_experts.LEAST_BYTES, torch.float32, 1)
    transformer = random_transformer(Causal(), experts=ExpertShape(8, 16, Routing(2), shared_width=16))
    model, runner = DecodableTransformer(transformer, MASK_ID, shift=1), CapturedSteps(AUTOREGRESSIVE,
                                                                                       compiles=compiles)
    for _ in range(2):
        decoded(runner, model)
    with recording() as ran:
        before = decoded(runner, model)
    assert named(ran)["experts"] == "cpu (weights packed by oneDNN)"
    assert (runner.replays.by_program > 0) == compiles
    assert runner.replays.replayed > 0
    assert before == tokens(AUTOREGRESSIVE.decode(model, REQUESTS))
    for mixture in transformer.modules():
        if isinstance(mixture, MoELayer):
            mixture.down_XEM.data.mul_(-2)
    transformer.pack()
    after = tokens(AUTOREGRESSIVE.decode(model, REQUESTS))
    for _ in range(3):
        assert decoded(runner, model) == after != before
    transformer.unpack()
    with recording() as ran:
        assert decoded(runner, model) == after
    assert "packed" not in named(ran)["experts"]


def test_models_of_the_same_weights_that_read_them_otherwise_have_steps_of_their_own() -> None:
    one = random_model(Bidirectional())
    other = replace(one, shift=1)
    decoder = presets.threshold()
    runner = CapturedSteps(decoder)
    for model in 3 * [one] + 3 * [other]:
        assert decoded(runner, model) == tokens(decoder.decode(model, REQUESTS))


def test_a_runner_of_another_decoder_is_refused() -> None:
    runner = CapturedSteps(replace(AUTOREGRESSIVE, end_id=5))
    with pytest.raises(ValueError, match="must be of the decoder itself"):
        generate(random_model(Causal()), AUTOREGRESSIVE, REQUESTS, runner=runner)


def test_a_decode_begun_within_another_has_memory_of_its_own() -> None:
    model, other, runner = random_model(Causal()), random_model(Causal(), seed=1), CapturedSteps(AUTOREGRESSIVE)
    expected, of_other = (tokens(AUTOREGRESSIVE.decode(each, REQUESTS)) for each in (model, other))
    decoded(runner, model)
    outer = AUTOREGRESSIVE.begin(model, REQUESTS)
    for number, _ in enumerate(AUTOREGRESSIVE.stream(outer, runner)):
        if number in (1, 3):
            further = [replace(request, tokens=[5, *request.tokens[1:]]) for request in REQUESTS]
            assert tokens(generate(model, AUTOREGRESSIVE, further, runner=runner).completions) == tokens(
                AUTOREGRESSIVE.decode(model, further))
            assert decoded(runner, other) == of_other
    assert tokens(AUTOREGRESSIVE.completions(outer)) == expected
    assert decoded(runner, other) == of_other


def test_a_decode_that_stops_early_keeps_what_it_decoded() -> None:
    model, runner = random_model(Causal()), CapturedSteps(AUTOREGRESSIVE)
    expected = tokens(AUTOREGRESSIVE.decode(model, REQUESTS))
    run = AUTOREGRESSIVE.begin(model, REQUESTS)
    with closing(AUTOREGRESSIVE.stream(run, runner)) as steps:
        for _ in range(4):
            next(steps)
    generate(model, AUTOREGRESSIVE, [Request.completing([9, 9, 9, 9], 8, mask_id=MASK_ID)] * 2, runner=runner)
    stopped = tokens(AUTOREGRESSIVE.completions(run))
    with closing(AUTOREGRESSIVE.stream(AUTOREGRESSIVE.begin(model, REQUESTS), runner)) as others:
        next(others)
        for _ in AUTOREGRESSIVE.stream(run, runner):  # from the first window on; the other decode has its own store
            pass
    assert tokens(AUTOREGRESSIVE.completions(run)) == expected
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
    (lambda: (TableModel(Causal()), AUTOREGRESSIVE), "TableModel is not replayable"),
    (lambda: (random_model(Causal()), replace(AUTOREGRESSIVE, cache=OwnCache())),
     "the cache does not tell its layouts"),
    (lambda: (reading(random_model(Causal())), AUTOREGRESSIVE), "Tensor.tolist reads values on the host")])
def test_what_cannot_be_captured_is_taken_as_ever_with_the_reason(
        make: Callable[[], tuple[LanguageModel, Decoder]], reason: str) -> None:
    model, decoder = make()
    runner = CapturedSteps(decoder)
    for _ in range(2):
        found, expected = (generate(model, decoder, REQUESTS, runner=each) for each in (runner, None))
        assert tokens(found.completions) == tokens(expected.completions)
        assert found.accounting == expected.accounting
    assert runner.replays.replayed == 0
    assert runner.replays.reasons == {reason}


def test_the_memory_of_four_batch_shapes_is_held() -> None:
    model, runner = random_model(Causal()), CapturedSteps(AUTOREGRESSIVE)
    for rows in range(1, 9):
        generate(model, AUTOREGRESSIVE, rows * REQUESTS, runner=runner)
    assert len(runner._frames) == 4
    before = runner.replays.captured
    generate(model, AUTOREGRESSIVE, 8 * REQUESTS, runner=runner)
    assert runner.replays.captured == before + 1  # the prompt's step, which was taken once


def test_batches_that_shrink_do_not_drop_one_anothers_memory() -> None:
    """Six rows that end at different windows."""
    model, decoder = random_model(Causal()), AUTOREGRESSIVE
    requests = [Request.completing([1, 2, row], 3 + 2 * row, mask_id=MASK_ID, seed=row) for row in range(6)]
    runner = CapturedSteps(decoder)
    counts = []
    for _ in range(4):
        runner.replays = Replays()
        assert tokens(generate(model, decoder, requests, runner=runner).completions) == tokens(
            decoder.decode(model, requests))
        counts.append((runner.replays.captured, runner.replays.replayed))
    assert counts[-1][0] == 0
    assert counts[-1][1] > counts[0][1]
    assert runner.replays.reasons == {"rows have left the batch"}


def test_under_autocast_steps_are_taken() -> None:
    model, runner = random_model(Causal()), CapturedSteps(AUTOREGRESSIVE)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            assert decoded(runner, model) == tokens(AUTOREGRESSIVE.decode(model, REQUESTS))
    assert (runner.replays.captured, runner.replays.replayed) == (0, 0)
    assert runner.replays.reasons == {"autocast chooses types from call to call"}


def test_positions_that_choose_experts_together_are_queried_as_without_capturing() -> None:
    experts = ExpertShape(8, 16, Routing(2))
    transformer = random_transformer(Bidirectional(), experts=experts)
    model = DecodableTransformer(with_routing_rule(transformer, BlockSharedExperts(3)), MASK_ID)
    assert model.spec.couples_positions
    assert not DecodableTransformer(transformer, MASK_ID).spec.couples_positions
    for decoder in (presets.llada(block=8, steps=8), presets.threshold()):
        runner = CapturedSteps(decoder)
        for _ in range(3):
            assert decoded(runner, model) == tokens(decoder.decode(model, REQUESTS))
        assert runner.replays.replayed > 0


def test_the_precision_of_products_may_be_set_for_one_backend_alone() -> None:
    runner, model = CapturedSteps(AUTOREGRESSIVE), random_model(Causal())
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        with pytest.raises(RuntimeError):
            torch.get_float32_matmul_precision()
        for _ in range(2):
            assert decoded(runner, model) == tokens(AUTOREGRESSIVE.decode(model, REQUESTS))
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def test_a_stream_that_is_let_go_of_gives_its_memory_back_at_once() -> None:
    runner, model = CapturedSteps(AUTOREGRESSIVE), random_model(Causal())
    gc.disable()
    try:
        for _ in range(3):
            for _ in stream_generate(model, AUTOREGRESSIVE, REQUESTS, runner=runner):
                break
    finally:
        gc.enable()
    assert len(runner._frames) == 1


def test_a_runner_holds_no_more_memory_than_it_may_after_many_decodes_at_once() -> None:
    runner, model = CapturedSteps(AUTOREGRESSIVE), random_model(Causal())
    streams = [stream_generate(model, AUTOREGRESSIVE, REQUESTS, runner=runner) for _ in range(7)]
    for stream in streams:
        next(iter(stream))
    assert len(runner._frames) == 7
    assert {tuple(stream.finish().completions[0].tokens) for stream in streams} == {
        tuple(AUTOREGRESSIVE.decode(model, REQUESTS)[0].tokens)}
    assert len(runner._frames) == 4


def test_what_is_left_of_a_decode_is_taken_as_without_a_runner() -> None:
    decoder, model = presets.fast_dllm_prefix(block=4), random_model(Bidirectional())
    runner, run = CapturedSteps(decoder), decoder.begin(model, REQUESTS)
    for _ in range(3):
        decoded(runner, model)
    with closing(decoder.stream(run, runner)) as steps:
        next(steps)
    assert run.rounding == EXACT


@dataclass(frozen=True)
class SomeLayouts(Append):
    """A cache that tells the layout of every other window only."""

    def layout(self, state: StepState) -> Layout | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().layout(state) if state.window.index % 2 else None


def test_steps_whose_layout_the_cache_does_not_tell_are_taken() -> None:
    decoder, model = replace(AUTOREGRESSIVE, cache=SomeLayouts()), random_model(Causal())
    runner = CapturedSteps(decoder)
    expected = generate(model, decoder, REQUESTS)
    for _ in range(3):
        found = generate(model, decoder, REQUESTS, runner=runner)
        assert (found.completions, found.accounting) == (expected.completions, expected.accounting)
    assert runner.replays.reasons == {"the cache does not tell this step's layout"}
    assert runner.replays.replayed > 0

