"""Every combination of parts that work together, made from their YAML, and what each step of a decode must keep to."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from quicksilver.decoders import (
    Append,
    BlockCausalCache,
    BlockCausalCacheApart,
    Blocks,
    Cache,
    Categorical,
    ClassifierFree,
    Decoder,
    Delayed,
    Greedy,
    GridBlocks,
    Linear,
    Policy,
    Progress,
    Recompute,
    Request,
    Sampler,
    Schedule,
    Step,
    Vicinity,
    Whole,
    Windows,
)
from quicksilver.models import AttentionPattern, Bidirectional, BlockCausal, Causal

from tests.conftest import MASK_ID, PATTERNS, TableModel

CONF = Path(__file__).resolve().parents[2] / "conf"


def options(group: str) -> dict[str, Any]:
    return {path.stem: instantiate(OmegaConf.load(path)) for path in sorted((CONF / group).glob("*.yaml"))}


POLICIES: dict[str, Policy] = options("policy")
# Fewer steps than the shipped ones, so that they end on short canvases too; and what a longer canvas would need.
SCHEDULES: Mapping[str, Schedule] = options("schedule") | {"linear 3": Linear(3)}
CACHES: dict[str, Cache] = options("cache") | {"vicinity": Vicinity(1, 1, 3), "delayed": Delayed(3)}
WINDOWS: dict[str, Windows] = options("windows")
SAMPLERS: Mapping[str, Sampler] = options("sampler") | {"cut": Categorical(temperature=0.8, top_k=5, top_p=0.9)}


@dataclass(frozen=True)
class Combination:
    name: str
    decoder: Decoder
    pattern: AttentionPattern

    def __str__(self) -> str:
        return self.name


REFUSALS: set[str] = set()


def works(decoder: Decoder, pattern: AttentionPattern) -> bool:
    """Whether the parts accept the model. They refuse with ValueError alone."""
    try:
        decoder.check(TableModel(pattern), Request.completing([1, 2, 3, 4], 12, mask_id=MASK_ID))
    except ValueError as error:
        REFUSALS.add(str(error))
        return False
    return True


def combinations() -> Iterator[Combination]:
    """Every policy, cache, windows and sampler that work together, on every pattern of attention that they accept; the
    schedules that a policy accepts take turns."""
    turn = itertools.count()
    for (policy_name, policy), (cache_name, cache), (windows_name, windows), (sampler_name, sampler) in (
            itertools.product(POLICIES.items(), CACHES.items(), WINDOWS.items(), SAMPLERS.items())):
        decoders: dict[str, Decoder] = {}
        for name, schedule in SCHEDULES.items():
            try:
                decoders[name] = Decoder(windows, schedule, sampler, policy, cache)
            except ValueError as error:
                REFUSALS.add(str(error))
        for pattern_name, pattern in PATTERNS.items() if decoders else ():
            schedule_name, decoder = list(decoders.items())[next(turn) % len(decoders)]
            if works(decoder, pattern):
                yield Combination("-".join((policy_name, cache_name, windows_name, sampler_name, pattern_name,
                                            schedule_name)), decoder, pattern)


EVERY = list(combinations())
ENDING = [Combination(f"ends-{cache}-{windows}",
                      Decoder(windows, Linear(2), Greedy(), POLICIES["leftmost"], cache, end_id=5), pattern)
          for windows, cache, pattern in [
              (Whole(), Recompute(), Bidirectional()), (Blocks(4), Recompute(), Bidirectional()),
              (GridBlocks(4), Recompute(), BlockCausal(4)), (GridBlocks(4), BlockCausalCache(), BlockCausal(4)),
              (GridBlocks(4), BlockCausalCacheApart(), BlockCausal(4)), (Blocks(1), Recompute(), Causal()),
              (Blocks(1), Append(), Causal())]]
FEW = [*EVERY[::17], *ENDING]
GUIDED = Combination("guided", Decoder(Blocks(4), Linear(2), Greedy(), POLICIES["top_probability"], Recompute(),
                                       guidance=ClassifierFree(0.7)), Bidirectional())


class Checked:
    """Looks at every step of a decode: what it changes is allowed, and what is not said to change stays."""

    def __init__(self, decoder: Decoder, requests: list[Request]) -> None:
        self.decoder, self.requests = decoder, requests
        self.before: dict[int, list[int]] = {row: list(request.tokens) for row, request in enumerate(requests)}
        self.at_start: torch.Tensor | None = None
        self.window_index, self.finished = -1, set[int]()
        self.row_steps = self.idle_row_steps = self.barren_row_steps = self.num_commits = self.num_remasked = 0

    def __call__(self, step: Step) -> None:
        query = step.window.query_BQ
        length = step.canvas.length
        before = torch.tensor([self.before[row] + [0] * (length + 1 - len(self.before[row])) for row in step.rows])
        masked = (before == MASK_ID).gather(1, query)
        if step.window.index != self.window_index:
            self.at_start, self.window_index = masked.sum(1), step.window.index
            self.finished = {row for row, count in zip(step.rows, self.at_start.tolist(), strict=True) if count == 0}
        assert self.at_start is not None
        eligible, edit = masked, step.edit
        quota = self.decoder.schedule.quota(Progress(self.at_start, eligible.sum(1), torch.tensor(step.index),
                                                     step.canvas.seed_B, step.window.size, step.window.size_B))
        count = (edit.commit_BQ & eligible).sum(1)
        assert (quota.at_least_B <= count).all()
        assert (count <= quota.at_most_B).all()
        given = step.canvas.given_BS.gather(1, query)
        changed = edit.commit_BQ if edit.remask_BQ is None else edit.commit_BQ | edit.remask_BQ
        assert not (changed & given).any()
        assert not (changed & (query == length)).any()
        if self.decoder.policy.revises:
            assert edit.remask_BQ is None or not (edit.remask_BQ & (eligible | edit.commit_BQ)).any()
        else:
            assert edit.remask_BQ is None
            assert not (edit.commit_BQ & ~eligible).any()

        after = step.canvas.tokens_BS
        unchanged = torch.ones_like(after, dtype=torch.bool).scatter(1, torch.where(changed, query, length), False)
        unchanged[:, length] = False
        assert torch.equal(after[unchanged], before[unchanged])
        assert torch.equal(after.gather(1, query)[edit.commit_BQ], step.proposal.token_BQ[edit.commit_BQ])
        assert torch.equal((after == MASK_ID)[:, :length], step.canvas.masked_BS[:, :length])

        self.row_steps += len(step.rows)
        self.num_commits += int(edit.commit_BQ.sum())
        self.num_remasked += 0 if edit.remask_BQ is None else int(edit.remask_BQ.sum())
        left = ((after == MASK_ID).gather(1, query) & (query < length)).any(1)
        goes_on = left if edit.unfinished_B is None else left | edit.unfinished_B
        for place, row in enumerate(step.rows):
            if row in self.finished:
                self.idle_row_steps += 1
                assert not changed[place].any(), "a finished row waits for the others unchanged"
            else:
                self.barren_row_steps += int(not changed[place].any())
                if not goes_on[place]:
                    self.finished.add(row)
            self.before[row] = after[place].tolist()[: len(self.requests[row].tokens)]
