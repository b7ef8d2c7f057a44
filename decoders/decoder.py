"""The decoder: five parts and the only decoding loop of the repository.

    for each window:  enter it (store what lies before)
        until no row of the batch has a mask left in it, nor wants another step:
            plan      what to feed      (cache)
            propose   which tokens      (model, guidance, sampler)
            quota     how many          (schedule)
            select    which positions   (policy)
            commit
        rows that are finished leave the batch

Streaming, tracing, timing and early stopping are consumers of the steps that `stream` yields.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from numbers import Number

import torch
from torch import Tensor

from ..kernels.checks import check_integer, check_integers
from ..kernels.distribution_state import PreviousDistribution
from ..kernels.token_statistics import TokenStatistics
from ..models.adapter import ChecksItself, LanguageModel, Plan
from .caches import Cache, Moment
from .canvas import Canvas, Request
from .decoding import Completion, Decoding, Logged, Step, Visit
from .guidance import Guidance, Unguided
from .policies.base import Edit, Policy, Situation
from .samplers import Asking, Sampler
from .schedules import Freedom, Progress, Schedule
from .windows import Span, Window, WindowGrid, Windows

# The share of a window's positions from which on it does not pay to sort out those that need no answer.
_WORTHWHILE = 0.75
# The state of a window in which logits were not finite.
_NONFINITE = -2


def _spread(found: TokenStatistics, order_BA: Tensor, eligible_BQ: Tensor) -> TokenStatistics:
    """The statistics of some of the positions at their places among all, zeros at the others."""
    return TokenStatistics(**{name: value.new_zeros(eligible_BQ.shape).scatter_(1, order_BA, value)
                              for name, value in vars(found).items() if value is not None})


def _end_id(end_id: object) -> int | tuple[int, ...]:
    """One token id as it is, several ascending, each once. ValueError names what is none."""
    if isinstance(end_id, Number):
        return check_integer("end_id", end_id, at_least=0)
    ends = sorted(set(check_integers("end_id", end_id)))
    if not ends:
        raise ValueError(f"end_id={end_id!r}: must be None, a token id or several")
    return ends[0] if len(ends) == 1 else tuple(ends)


@dataclass(frozen=True)
class Decoder:
    """Five interchangeable parts, and guidance if wanted. Rows stop after a window that holds `end_id`, or one of
    several (kept in order as a tuple), where any is given: exact where no later window can change an earlier one
    (causal and block-causal models), an approximation for bidirectional ones, which would have gone on to condition on
    what follows."""

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
        if policy.needs_open_quota and schedule.freedom is Freedom.FIXED:
            raise ValueError(f"policy {policy} with schedule {schedule}: a fixed quota leaves the policy nothing to "
                             "decide; use schedule unbounded, floor or free")
        if policy.needs_free_quota and schedule.freedom is not Freedom.FREE:
            raise ValueError(f"policy {policy} with schedule {schedule}: the policy may commit nothing at a step, "
                             "which only schedule free allows")
        if policy.needs_free_quota and self.windows.num_revised:
            raise ValueError(f"policy {policy} with {self.windows}: each window's time begins at 1, at which the "
                             "policy would return the finished blocks to mask")
        if policy.needs_times and not schedule.is_timed:
            raise ValueError(f"policy {policy} with schedule {schedule}: the policy goes by the diffusion time, which "
                             "the schedule does not tell")
        if policy.revises and not cache.answers_decided:
            raise ValueError(f"policy {policy} with cache {cache}: the policy revises decided positions, which the "
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
        decoding = self.begin(model, requests)
        for _ in self.stream(decoding):
            pass
        return self.completions(decoding)

    def begin(self, model: LanguageModel, requests: Sequence[Request]) -> Decoding:
        """Check the requests against the model and the parts, and lay them on a canvas. ValueError names what does
        not fit."""
        if isinstance(model, ChecksItself):
            model.check(shows_mask=self.guidance.shows_mask)
        spans = [self.check(model, request) for request in requests]
        whole = Canvas.of(requests, model)
        grid = WindowGrid.of(spans, whole.stop_B, whole.length, self.windows.num_revised)
        store = model.new_store(len(requests), whole.length) if self.cache.stores else None
        masked_from = [span.count_from(request.tokens, model.spec.mask_id)
                       for span, request in zip(spans, requests, strict=True)]
        decoding = Decoding(model, requests, whole, whole, spans, grid, store, list(range(len(requests))), masked_from)
        if store is not None:
            decoding.accounting.kv_store_bytes = store.num_bytes
        return decoding

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
    def stream(self, decoding: Decoding) -> Iterator[Step]:
        """Run the decode, yielding every step. FloatingPointError once logits are not finite: at the latest where the
        loop first looks whether the window is finished."""
        index = 0
        while decoding.rows:
            visit = self.enter(decoding, index)
            # No step before this one can be the window's last, so that none before it waits for the device.
            certain = self.schedule.least_steps(visit.most_masked)
            step, num_steps, num_ended = torch.zeros_like(decoding.live.seed_B[0]), 0, -1
            while num_ended < 0:
                proposal, edit, state = self.step(decoding, visit, num_steps, step)
                yield Step(num_steps, visit.window, proposal, edit, decoding.live, tuple(decoding.rows))
                step += 1
                num_steps += 1
                num_ended = int(state) if num_steps >= certain else -1
                if num_ended == _NONFINITE:
                    decoding.check_finite()
            index += 1
            if num_ended or min(decoding.grid.counts) <= index:
                ended = self._reached_end(decoding.live, visit.window).tolist()
                decoding.drop(ended, index)

    def enter(self, decoding: Decoding, index: int) -> Visit:
        """Begin window number `index`: store what lies before it, where the cache wants that."""
        visit = decoding.visit = self.visit(decoding, index)
        plan = self.cache.entry_plan(visit.window)
        if plan is not None:
            decoding.model.hidden(decoding.live.tokens_BS, plan, decoding.store)
            decoding.accounting.count_forward("store", plan)
        return visit

    def visit(self, decoding: Decoding, index: int) -> Visit:
        """The state of window number `index` before its first step."""
        window, model, canvas = decoding.grid.window(index), decoding.model, decoding.live
        masked_B = canvas.masked_BS.gather(1, window.query_BQ).sum(1)
        shape = torch.Size((*window.query_BQ.shape, model.spec.vocab_size))
        follows = "divergence" in self.policy.statistics
        previous = PreviousDistribution.empty(shape, model.spec.device) if follows else None
        nonfinite_BQ = torch.zeros_like(window.query_BQ, dtype=torch.bool)
        return Visit(window, masked_B, masked_B > 0, nonfinite_BQ, self.policy.begin(window.query_BQ),
                     self.sampler.begin(shape, model.spec.device), previous, decoding.masked_in(index),
                     decoding.masked_after(index))

    def step(self, decoding: Decoding, visit: Visit, index: int, step: Tensor
             ) -> tuple[TokenStatistics, Edit, Tensor]:
        """Step number `index`, on the device `step` (int64 scalar), on tensors of fixed shape and without a host read,
        so that a CUDA graph can capture it: the proposal, the edit (already applied), and a scalar that is -1 while a
        row of the window is not finished, else the number of rows that reached the end token; -2 from the first step on
        whose logits are not finite."""
        window, canvas = visit.window, decoding.live
        eligible_BQ = canvas.masked_BS.gather(1, window.query_BQ)
        proposal = self._propose(decoding, visit, index, step, eligible_BQ)
        masked_B = eligible_BQ.sum(1)
        revisable_BQ = canvas.revisable(window.query_BQ) & visit.active_B[:, None] if self.policy.revises else None
        if proposal.nonfinite_BQ is not None:
            decided_BQ = eligible_BQ if revisable_BQ is None else eligible_BQ | revisable_BQ
            visit.nonfinite_BQ.logical_or_(proposal.nonfinite_BQ & decided_BQ)
        progress = Progress(visit.masked_at_start_B, masked_B, step, canvas.seed_B, window.size, window.size_B)
        edit = self.policy.select(Situation(
            proposal, eligible_BQ, window.query_BQ, self.schedule.quota(progress), canvas, step,
            self.schedule.times(progress) if self.policy.needs_times else None,
            revisable_BQ, visit.policy_state))
        decoding.log.append(Logged(visit.active_B.clone() if self.policy.revises else masked_B, edit))
        masked_B = canvas.commit(window.query_BQ, edit.commit_BQ, proposal.token_BQ, proposal.log_prob_BQ, step)
        if edit.remask_BQ is not None:
            masked_B = canvas.remask(window.query_BQ, edit.remask_BQ, decoding.model.spec.mask_id)
        unfinished = self._unfinished(visit, edit, masked_B)
        state = torch.where(unfinished, -1, self._reached_end(canvas, window).sum()) if self.end_ids else (
            -unfinished.long())
        return proposal, edit, state.masked_fill_(visit.nonfinite_BQ.any(), _NONFINITE)

    def _propose(self, decoding: Decoding, visit: Visit, index: int, step: Tensor, eligible_BQ: Tensor
                 ) -> TokenStatistics:
        """What the model and the sampler say of the window's positions: of those that are masked at least."""
        model, canvas, query_BQ = decoding.model, decoding.live, visit.window.query_BQ
        most_masked = visit.masked_after + self.schedule.most_left(visit.most_masked, max(index - 1, 0))
        plan = self.cache.plan(Moment(index, step, visit.window, canvas, model.spec.shift, most_masked))
        num_asked = self._num_asked(visit, index)
        if num_asked < query_BQ.shape[1]:
            order_BA = (~eligible_BQ).byte().argsort(dim=1, stable=True)[:, :num_asked]
            plan = replace(plan, query_BQ=query_BQ.gather(1, order_BA))
            return _spread(self._ask(decoding, visit, plan, step, eligible_BQ.gather(1, order_BA)), order_BA,
                           eligible_BQ)
        return self._ask(decoding, visit, plan, step, eligible_BQ)

    def _ask(self, decoding: Decoding, visit: Visit, plan: Plan, step: Tensor, masked_BQ: Tensor) -> TokenStatistics:
        """One forward, and the sampler's question about the plan's positions."""
        model, canvas = decoding.model, decoding.live
        hidden_BQE = self.guidance.hidden(model, canvas, plan, decoding.store, decoding.accounting)
        question = self.sampler.question(self.policy.statistics, Asking(canvas.seed_B, plan.query_BQ, step, masked_BQ),
                                         visit.sampler_memory)
        if "canvas_log_prob" in self.policy.statistics:
            question = replace(question, canvas_token_BQ=canvas.tokens_BS.gather(1, plan.query_BQ))
        if visit.previous is not None:
            question = replace(question, previous=visit.previous)
        return model.statistics(hidden_BQE, question)

    def _num_asked(self, visit: Visit, index: int) -> int:
        """How many of the window's positions are asked about: as many as may be masked, where others are of no use and
        are enough to be worth the sorting out."""
        num_queried = visit.window.query_BQ.shape[1]
        num_masked = self.schedule.most_left(visit.most_masked, index)
        keeps_logits = visit.sampler_memory is not None or visit.previous is not None
        looks_at_all = self.policy.revises or self.policy.needs_whole_window or keeps_logits
        if looks_at_all or num_masked > _WORTHWHILE * num_queried:
            return num_queried
        return max(num_masked, 1)

    def _unfinished(self, visit: Visit, edit: Edit, masked_B: Tensor) -> Tensor:
        """Keep what the next step needs, and say whether a row wants one (bool scalar)."""
        if visit.policy_state is not None and edit.state is not None:
            visit.policy_state.copy_(edit.state)
        if not self.policy.revises:
            return masked_B.any()
        unfinished_B = masked_B > 0
        if edit.unfinished_B is not None:
            unfinished_B |= edit.unfinished_B & visit.active_B
        visit.active_B.copy_(unfinished_B)
        return unfinished_B.any()

    def completions(self, decoding: Decoding) -> list[Completion]:
        """The requests in their order, decoded as far as steps were taken; fills in what the accounting counts in
        tokens and in row steps. FloatingPointError as from `stream`."""
        decoding.check_finite()
        decoding.gather()
        whole, accounting = decoding.whole, decoding.accounting
        decoding.count_steps()
        accounting.tokens_useful = 0
        decided_BS, end_ids = (~(whole.masked_BS | whole.given_BS)).tolist(), self.end_ids
        completions = []
        for request, tokens, decided in zip(decoding.requests, whole.tokens_BS.tolist(), decided_BS, strict=True):
            length = len(request.tokens)
            ends = (p for p in range(request.start, length) if tokens[p] in end_ids and decided[p])
            stop = next(ends, length - 1) + 1
            accounting.tokens_useful += sum(decided[request.start : stop])
            completions.append(Completion(tokens[:length], tokens[request.start : stop]))
        return completions

    def _reached_end(self, canvas: Canvas, window: Window) -> Tensor:
        """Which rows decided on an end token in the window, bool [B]; a given one ends nothing."""
        if not self.end_ids:
            return torch.zeros_like(canvas.seed_B, dtype=torch.bool)
        token_BQ = canvas.tokens_BS.gather(1, window.query_BQ)
        is_end_BQ = reduce(torch.logical_or, (token_BQ == end for end in self.end_ids))
        return (is_end_BQ & ~canvas.given_BS.gather(1, window.query_BQ)).any(1)
