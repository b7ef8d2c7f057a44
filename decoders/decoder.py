"""The decoder: five parts and the only decoding loop of the repository.

    for each window:  enter it (store what lies before)
        until no row of the batch has a mask left in it:
            quota     how many          (schedule)
            plan      what to feed      (cache)
            propose   which tokens      (model, sampler)
            select    which positions   (policy)
            commit
        rows that are finished leave the batch

Streaming, tracing, timing and early stopping are consumers of the steps that `stream` yields.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..kernels.token_statistics import TokenStatistics
from ..models.adapter import LanguageModel
from ..models.kv_store import KVStore
from .accounting import Accounting
from .caches import Cache
from .canvas import Canvas, Request
from .policies.base import Edit, Policy, Situation
from .samplers import Sampler
from .schedules import Schedule
from .windows import Span, Window, WindowGrid, Windows


@dataclass(frozen=True)
class Step:
    """One step of a decode; its tensors are valid until the next one. `rows` maps the batch to the requests."""

    index: int
    window: Window
    proposal: TokenStatistics
    edit: Edit
    canvas: Canvas
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Completion:
    """A decoded request: its whole canvas, and the completion from `start` up to and with the first end token."""

    tokens: list[int]
    completion: list[int]


@dataclass
class Decoding:
    """The state of one decode: the batch that is still being decoded, and the canvas of all requests."""

    model: LanguageModel
    requests: Sequence[Request]
    whole: Canvas
    live: Canvas
    spans: Sequence[Span]
    grid: WindowGrid
    store: KVStore | None
    rows: list[int]
    num_masked: list[list[int]]
    steps_per_window: list[int] = field(default_factory=list)
    accounting: Accounting = field(default_factory=Accounting)


@dataclass(frozen=True)
class Decoder:
    """Five interchangeable parts. Rows stop after a window that holds `end_id`, where one is given."""

    windows: Windows
    schedule: Schedule
    sampler: Sampler
    policy: Policy
    cache: Cache
    end_id: int | None = None

    def __post_init__(self) -> None:
        self.cache.check_windows(self.windows)
        if self.policy.needs_open_quota and self.schedule.is_fixed:
            raise ValueError(f"policy {self.policy} with schedule {self.schedule}: a fixed quota leaves the policy "
                             "nothing to decide; use schedule unbounded")

    def decode(self, model: LanguageModel, requests: Sequence[Request]) -> list[Completion]:
        """Decode the requests as one batch."""
        decoding = self.begin(model, requests)
        for _ in self.stream(decoding):
            pass
        return self.completions(decoding)

    def begin(self, model: LanguageModel, requests: Sequence[Request]) -> Decoding:
        """Check the requests against the model and the parts, and lay them on a canvas. ValueError names what does
        not fit."""
        spans = [self.check(model, request) for request in requests]
        whole = Canvas.of(requests, model)
        grid = WindowGrid.of(spans, whole.stop_B, whole.length)
        store = model.new_store(len(requests), whole.length) if self.cache.stores else None
        num_masked = [span.count_in_windows(request.tokens, model.mask_id)
                      for span, request in zip(spans, requests, strict=True)]
        decoding = Decoding(model, requests, whole, whole, spans, grid, store, list(range(len(requests))), num_masked)
        if store is not None:
            decoding.accounting.kv_store_bytes = store.num_bytes
        return decoding

    def check(self, model: LanguageModel, request: Request) -> Span:
        """The windows of a request. ValueError with the reason if the parts cannot serve the model or the request."""
        self.cache.check_model(model, self.windows)
        return self.windows.span(request.start, len(request.tokens))

    @torch.inference_mode()
    def stream(self, decoding: Decoding) -> Iterator[Step]:
        """Run the decode, yielding every step."""
        index = 0
        while decoding.rows:
            window = decoding.grid.window(index)
            self.enter(decoding, window)
            masked_at_start_B = _masked_count(decoding.live, window)
            # No step before this one can be the window's last, so that none before it waits for the device.
            certain = self.schedule.least_steps(max(decoding.num_masked[row][index] for row in decoding.rows))
            step, num_steps, num_ended = torch.zeros_like(decoding.live.seed_B[0]), 0, -1
            while num_ended < 0:
                proposal, edit, state = self.step(decoding, window, masked_at_start_B, step)
                yield Step(num_steps, window, proposal, edit, decoding.live, tuple(decoding.rows))
                step += 1
                num_steps += 1
                num_ended = int(state) if num_steps >= certain else -1
            decoding.accounting.row_steps += num_steps * len(decoding.rows)
            decoding.steps_per_window.append(num_steps)
            index += 1
            if num_ended or min(decoding.grid.counts) <= index:
                self._drop_finished(decoding, window, index)

    def enter(self, decoding: Decoding, window: Window) -> None:
        """Store what lies before the window, where the cache wants that."""
        plan = self.cache.entry_plan(window, decoding.live.length)
        if plan is not None:
            decoding.model.hidden(decoding.live.tokens_BS, plan, decoding.store)
            decoding.accounting.count_forward("store", plan)

    def step(self, decoding: Decoding, window: Window, masked_at_start_B: Tensor, step: Tensor
             ) -> tuple[TokenStatistics, Edit, Tensor]:
        """Step number `step` (int64 scalar) on tensors of fixed shape, without a host read, so that a CUDA graph can
        capture it: the proposal, the edit (already applied), and a
        scalar that is -1 while masks are left in the window, else the number of rows that reached the end token."""
        model, canvas = decoding.model, decoding.live
        plan = self.cache.plan(window, canvas.length)
        question = self.sampler.question(self.policy.statistics, (canvas.seed_B, window.query_BQ, step))
        proposal = model.statistics(model.hidden(canvas.tokens_BS, plan, decoding.store), question)
        decoding.accounting.count_forward("denoise", plan)

        eligible_BQ = canvas.masked_BS.gather(1, window.query_BQ)
        quota = self.schedule.quota(masked_at_start_B, eligible_BQ.sum(1), step)
        edit = self.policy.select(Situation(proposal, eligible_BQ, window.query_BQ, quota, canvas, step))
        remaining_B = canvas.commit(window.query_BQ, edit.commit_BQ, proposal.token_BQ, proposal.log_prob_BQ, step)

        unfinished = remaining_B.any()
        if self.end_id is None:
            return proposal, edit, -unfinished.long()
        return proposal, edit, torch.where(unfinished, -1, self._reached_end(canvas, window).sum())

    def completions(self, decoding: Decoding) -> list[Completion]:
        """The decoded requests in their order; fills in the accounting's tokens and idle steps."""
        whole, accounting = decoding.whole, decoding.accounting
        accounting.tokens_committed = accounting.tokens_useful = accounting.idle_row_steps = 0
        decided_BS = (~(whole.masked_BS | whole.given_BS)).tolist()
        completions = []
        for request, span, tokens, decided, step in zip(decoding.requests, decoding.spans, whole.tokens_BS.tolist(),
                                                        decided_BS, whole.step_BS.tolist(), strict=True):
            length = len(request.tokens)
            ends = (p for p in range(request.start, length) if tokens[p] == self.end_id and decided[p])
            last = next(ends, length - 1)
            stop, num_windows = last + 1, (last - span.first) // span.size + 1
            accounting.tokens_committed += sum(decided[request.start : length])
            accounting.tokens_useful += sum(decided[request.start : stop])
            for window, num_steps in enumerate(decoding.steps_per_window[:num_windows]):
                begin = span.first + window * span.size
                positions = range(begin, min(begin + span.size, length))
                used = max((step[p] + 1 for p in positions if decided[p]), default=0)
                accounting.idle_row_steps += num_steps - used
            completions.append(Completion(tokens[:length], tokens[request.start : stop]))
        return completions

    def _reached_end(self, canvas: Canvas, window: Window) -> Tensor:
        """Which rows decided on the end token in the window, bool [B]; a given one ends nothing."""
        query_BQ = window.query_BQ
        return ((canvas.tokens_BS.gather(1, query_BQ) == self.end_id) & ~canvas.given_BS.gather(1, query_BQ)).any(1)

    def _drop_finished(self, decoding: Decoding, window: Window, next_index: int) -> None:
        """Take the rows out of the batch that reached the end token or have no window left."""
        ended = [False] * len(decoding.rows)
        if self.end_id is not None:
            ended = self._reached_end(decoding.live, window).tolist()
        kept = [row for row, count in enumerate(decoding.grid.counts) if count > next_index and not ended[row]]
        if decoding.live is not decoding.whole:
            decoding.whole.put_rows(torch.tensor(decoding.rows), decoding.live)
        if not kept:
            decoding.rows = []
            return
        index_B = torch.tensor(kept, device=window.query_BQ.device)
        decoding.live = decoding.live.rows(index_B)
        decoding.grid = decoding.grid.rows(index_B, kept)
        decoding.store = None if decoding.store is None else decoding.store.rows(index_B)
        decoding.rows = [decoding.rows[row] for row in kept]


def _masked_count(canvas: Canvas, window: Window) -> Tensor:
    """Masks of each row in the window, int64 [B]."""
    return canvas.masked_BS.gather(1, window.query_BQ).sum(1)
