"""The decoder: five parts and the only decoding loop of the repository.

    for each window:
        prefill: store what precedes it                     (cache)
        until no row has a mask left, or its policy asks for another step:
            plan      which positions to feed               (cache)
            propose   a token for each masked position      (model, guidance, sampler)
            select    which positions to commit             (policy, within the schedule's quota)
            commit, and return to mask
        compact the batch to the rows that are not finished

Streaming, tracing, timing and early stopping are consumers of the steps that `stream` yields.
"""

import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from numbers import Number

import torch
from torch import Tensor

from ..kernels.checks import check_integer, check_integers
from ..kernels.dispatch import runs_triton
from ..kernels.distribution_state import PreviousDistribution
from ..kernels.token_statistics import TokenStatistics
from ..models.adapter import ChecksItself, LanguageModel, Plan
from .bans import ban_levels, bans_at
from .caches import Cache
from .canvas import Canvas, Request
from .decode_run import BlockState, Completion, DecodeRun, StepCounts, StepRunner
from .guidance import Guidance, Unguided
from .policies.base import Policy
from .proposal import Proposal
from .samplers import Sampler
from .schedules import QuotaKind, Schedule
from .schedules.bounds import bounds
from .step import Step
from .step_state import StepState
from .windows import Span, WindowGrid, Windows

# Above this share of possibly masked positions the head runs on the whole window: a gather would cost more.
COMPACTION_THRESHOLD = 0.75
# On a GPU fewer rows than these save nothing: the head's program of so many rows reads its weights once.
_ROWS_OF_ONE_PROGRAM = 32


def _end_id(end_id: object) -> int | tuple[int, ...]:
    """One token id as an integer, several as an ascending tuple without repeats. ValueError for anything else."""
    if isinstance(end_id, Number):
        return check_integer("end_id", end_id, at_least=0)
    ends = sorted(set(check_integers("end_id", end_id)))
    if not ends:
        raise ValueError(f"end_id={end_id!r}: must be None, a token id or several")
    return ends[0] if len(ends) == 1 else tuple(ends)


@dataclass(frozen=True)
class Decoder:
    """Five interchangeable parts and optional guidance. A row stops after a window with an end token: `end_id` is one
    id, several (kept as an ascending tuple) or None. Stopping is exact where no later window can change an earlier one
    (causal and block-causal models), and an approximation for bidirectional models, whose tokens depend on all later
    ones."""

    windows: Windows
    schedule: Schedule
    sampler: Sampler
    policy: Policy
    cache: Cache
    end_id: int | Iterable[int] | None = None
    guidance: Guidance = field(default_factory=Unguided)

    def __post_init__(self) -> None:
        policy, schedule, cache = self.policy, self.schedule, self.cache
        if self.end_id is not None:
            object.__setattr__(self, "end_id", _end_id(self.end_id))
        cache.check_windows(self.windows)
        if policy.needs_open_quota and schedule.quota_kind is QuotaKind.EXACT:
            raise ValueError(f"policy {policy} with schedule {schedule}: a fixed quota leaves the policy nothing to "
                             "decide; use schedule unbounded, floor or free")
        if policy.needs_free_quota and schedule.quota_kind is not QuotaKind.ANY:
            raise ValueError(f"policy {policy} with schedule {schedule}: the policy may commit nothing at a step, "
                             "which only schedule free allows")
        if policy.needs_free_quota and self.windows.num_revised:
            raise ValueError(f"policy {policy} with {self.windows}: each window's time begins at 1, at which the "
                             "policy would return the finished blocks to mask")
        if policy.needs_times and not schedule.is_timed:
            raise ValueError(f"policy {policy} with schedule {schedule}: the policy goes by the diffusion time, which "
                             "the schedule does not tell")
        if policy.revises and not cache.recomputes_committed:
            raise ValueError(f"policy {policy} with cache {cache}: the policy revises committed positions, which the "
                             "cache does not compute again")
        if cache.stores and not self.guidance.takes_store:
            raise ValueError(f"cache {cache} with guidance {self.guidance}: a store holds keys and values of one "
                             "canvas, guidance runs two; use cache recompute")

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end a row, ascending; none or several."""
        if self.end_id is None:
            return ()
        return (self.end_id,) if isinstance(self.end_id, int) else tuple(self.end_id)

    def decode(self, model: LanguageModel, requests: Sequence[Request]) -> list[Completion]:
        """Decode the requests as one batch."""
        run = self.begin(model, requests)
        for _ in self.stream(run):
            pass
        return self.completions(run)

    def begin(self, model: LanguageModel, requests: Sequence[Request], banned_ids: Iterable[int] = ()) -> DecodeRun:
        """Check the requests against the model and the parts, and build the canvas; the tokens `banned_ids` are never
        proposed. ValueError names what does not fit."""
        if isinstance(model, ChecksItself):
            model.check(shows_mask=self.guidance.shows_mask)
        spans = [self.check(model, request) for request in requests]
        canvas = Canvas.of(requests, model)
        grid = WindowGrid.of(spans, canvas.stop_B, canvas.length, self.windows.num_revised)
        store = model.new_store(len(requests), canvas.length) if self.cache.stores else None
        masked_from = [span.count_from(request.tokens, model.spec.mask_id)
                       for span, request in zip(spans, requests, strict=True)]
        early_ids = self.end_ids if any(request.min_new for request in requests) else ()
        run = DecodeRun(model, requests, canvas, canvas, spans, grid, store, list(range(len(requests))), masked_from,
                        ban_levels(model.spec, banned_ids, early_ids))
        if store is not None:
            run.accounting.kv_store_bytes = store.num_bytes
        return run

    def check(self, model: LanguageModel, request: Request) -> Span:
        """The windows of a request. ValueError with the reason if the parts cannot serve the model or the request."""
        self.cache.check_model(model, self.windows)
        for end in self.end_ids:
            if end >= model.spec.vocab_size or end == model.spec.mask_id:
                raise ValueError(f"end_id={end}: must be a token id from 0 to {model.spec.vocab_size - 1} "
                                 f"(vocab_size - 1) other than the mask id, {model.spec.mask_id}")
        if not model.spec.materializes_logits and (self.sampler.needs_logits or "divergence" in self.policy.statistics):
            raise ValueError(f"sampler {self.sampler} and policy {self.policy} with a fused head: they need all logits "
                             "of a position at once, which only a separate head holds")
        return self.windows.span(request.start, len(request.tokens))

    @torch.inference_mode()
    def stream(self, run: DecodeRun, runner: StepRunner | None = None) -> Generator[Step]:
        """Run the decode, yielding every step; `runner` takes them in the decoder's place, and must be made for it.
        FloatingPointError on non-finite logits, at the latest when the loop next reads whether the window is
        finished."""
        if runner is None:
            yield from self._steps(run, self)
            return
        if runner.decoder != self:
            raise ValueError(f"a runner of {runner.decoder}: must be of the decoder itself, {self}")
        try:
            yield from self._steps(run, runner)
        finally:
            runner.end(run)

    def _steps(self, run: DecodeRun, runner: "StepRunner | Decoder") -> Iterator[Step]:
        for number in itertools.count():
            block = runner.begin_block(run, number)
            self.prefill(run, block)
            num_with_end = 0
            for index in itertools.count():
                unfinished_B = block.unfinished_B.clone()
                taken = runner.step(run, block, index)
                self._count(run, taken, unfinished_B, is_kept=runner is self)
                # A consumer may take steps of other decodes before it asks for the next one.
                status_3 = taken.status_3 if runner is self else taken.status_3.clone()
                yield taken
                block.step_B.add_(1)  # after the yield: a consumer that repeats the request draws the same
                if index + 1 < block.bounds.min_steps:
                    continue  # no row can be finished: no host read is needed
                num_unfinished, num_with_end, num_nonfinite = status_3.tolist()
                if num_nonfinite:
                    run.check_finite()
                if not num_unfinished:
                    break
            if num_with_end or run.has_ended_rows or min(run.grid.counts) <= number + 1:
                run.compact(block.has_end_B.tolist(), number + 1)
            if not run.rows:
                return

    def _count(self, run: DecodeRun, taken: Step, unfinished_B: Tensor, *, is_kept: bool) -> None:
        """Count a step. Its tensors are copied unless `is_kept`."""
        run.accounting.count_forward(self.guidance.forward_kind, taken.plan,
                                     num_rows=self.guidance.num_canvases * len(taken.rows))
        commit_BQ, remask_BQ = taken.edit.commit_BQ, taken.edit.remask_BQ
        if not is_kept:
            commit_BQ, remask_BQ = commit_BQ.clone(), None if remask_BQ is None else remask_BQ.clone()
        run.log.append(StepCounts(unfinished_B, commit_BQ, remask_BQ))

    def begin_block(self, run: DecodeRun, number: int) -> BlockState:
        """The state of window number `number` before its first step."""
        window, spec, canvas = run.grid.window(number), run.spec, run.active
        num_masked_B = canvas.masked_BS.gather(1, window.query_BQ).sum(1)
        shape = torch.Size((*window.query_BQ.shape, spec.vocab_size))
        run.block = BlockState(
            window, num_masked_B, num_masked_B > 0, torch.zeros_like(num_masked_B, dtype=torch.bool),
            torch.zeros_like(window.query_BQ, dtype=torch.bool), torch.zeros_like(num_masked_B),
            self.policy.begin(window.query_BQ), self.sampler.begin(shape, spec.device),
            PreviousDistribution.empty(shape, spec.device) if "divergence" in self.policy.statistics else None,
            bounds(self.schedule, run.max_masked_in(number), window.size, is_ragged=window.size_B is not None),
            run.max_masked_after(number))
        return run.block

    def prefill(self, run: DecodeRun, block: BlockState) -> None:
        """Store the keys and values before the window, if the cache needs a separate forward for them."""
        plan = self.cache.entry_plan(block.window)
        if plan is not None:
            run.model.hidden(run.active.tokens_BS, plan, run.store)
            run.accounting.count_forward("store", plan)

    def step(self, run: DecodeRun, block: BlockState, index: int) -> Step:
        """Take step number `index` of a window. Shapes are fixed, and nothing is read or changed on the host, so that a
        CUDA graph can capture it."""
        canvas, query_BQ = run.active, block.window.query_BQ
        state = run.state(self.schedule, block, index)
        masked_BQ = state.masked_BQ
        plan, proposal = self._propose(run, block, state)
        edit = self.policy.select(state, proposal)
        if proposal.found.nonfinite_BQ is not None:
            open_BQ = masked_BQ | state.revisable_BQ if self.policy.revises else masked_BQ
            block.nonfinite_BQ.logical_or_(proposal.found.nonfinite_BQ & open_BQ)
        num_masked_B = canvas.commit(query_BQ, edit.commit_BQ, proposal.token_BQ, proposal.found.log_prob_BQ,
                                     block.step_B)
        if edit.remask_BQ is not None:
            num_masked_B = canvas.remask(query_BQ, edit.remask_BQ, run.spec.mask_id)
        block.update(edit, num_masked_B)
        if self.end_ids:
            self._find_end(block, canvas)
        status_3 = torch.stack((block.unfinished_B, block.has_end_B, block.nonfinite_BQ.any(1))).sum(1)
        return Step(index, block.window, tuple(run.rows), canvas, masked_BQ, plan, proposal, edit, status_3)

    def _propose(self, run: DecodeRun, block: BlockState, state: StepState) -> tuple[Plan, Proposal]:
        """The forward of a step and its proposal, at least at the masked positions of the window."""
        plan, num_positions = self.cache.plan(state), state.query_BQ.shape[1]
        num_queried = state.rounding.queries(self.num_queried(block, state), num_positions)
        if num_queried == num_positions:
            return plan, Proposal(self._statistics(run, block, plan, state, state.query_BQ))
        place_BA = (~state.masked_BQ).byte().argsort(dim=1, stable=True)[:, :num_queried]
        query_BA = state.query_BQ.gather(1, place_BA)
        plan = replace(plan, reads_BQ=query_BA)
        found = self._statistics(run, block, plan, state, query_BA)
        return plan, Proposal.scattered(found, place_BA, state.query_BQ.shape)

    def num_queried(self, block: BlockState, state: StepState) -> int:
        """Number of window positions the head runs on: as many as may be masked, unless a part uses the others or too
        little is saved to be worth the gather."""
        num_positions = state.query_BQ.shape[1]
        keeps_logits = block.sampler_memory is not None or block.previous is not None
        uses_all = self.policy.revises or self.policy.needs_whole_window or keeps_logits
        saves_nothing = (state.query_BQ.numel() <= _ROWS_OF_ONE_PROGRAM and runs_triton(state.query_BQ)
                         and not state.couples_positions)
        if uses_all or saves_nothing or state.max_masked > COMPACTION_THRESHOLD * num_positions:
            return num_positions
        return max(state.max_masked, 1)

    def _statistics(self, run: DecodeRun, block: BlockState, plan: Plan, state: StepState, query_BQ: Tensor
                    ) -> TokenStatistics:
        """Run the forward; the sampler's statistics at the positions query_BQ, which the plan reads."""
        hidden_BQE, wanted = self.guidance.hidden(run, plan), self.policy.statistics
        question = self.sampler.question(wanted, state, query_BQ, block.sampler_memory)
        if "canvas_log_prob" in wanted:
            question = replace(question, canvas_token_BQ=state.canvas.tokens_BS.gather(1, query_BQ))
        if block.previous is not None:
            question = replace(question, previous=block.previous)
        if run.ban_level_V is not None:
            question = replace(question, bans=bans_at(run.ban_level_V, state.canvas, query_BQ))
        return run.model.statistics(hidden_BQE, question)

    def completions(self, run: DecodeRun) -> list[Completion]:
        """The requests in order, decoded as far as steps were taken. Fills in the accounting's tokens and row steps.
        FloatingPointError as from `stream`."""
        run.check_finite()
        run.scatter_back()
        full, accounting = run.full, run.accounting
        run.count_steps()
        accounting.tokens_useful = accounting.tokens_cut = 0
        committed_BS, end_ids = (~(full.masked_BS | full.given_BS)).tolist(), self.end_ids
        completions = []
        for number, (request, tokens, committed) in enumerate(
                zip(run.requests, full.tokens_BS.tolist(), committed_BS, strict=True)):
            length = run.ended.get(number, request.stop)
            ends = (p for p in range(request.start, length) if tokens[p] in end_ids and committed[p])
            stop = next(ends, length - 1) + 1
            accounting.tokens_useful += sum(committed[request.start : stop])
            accounting.tokens_cut += sum(committed[stop : len(request.tokens)])
            completions.append(Completion(tokens[: len(request.tokens)], tokens[request.start : stop]))
        return completions

    def _find_end(self, block: BlockState, canvas: Canvas) -> None:
        """Mark the rows that committed an end token in the window. Given end tokens do not count."""
        query_BQ = block.window.query_BQ
        token_BQ = canvas.tokens_BS.gather(1, query_BQ)
        is_end_BQ = reduce(torch.logical_or, (token_BQ == end for end in self.end_ids))
        torch.any(is_end_BQ & ~canvas.given_BS.gather(1, query_BQ), 1, out=block.has_end_B)
