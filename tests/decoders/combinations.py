"""Combinations of parts, made from their YAML, that hold every two parts that work together; and what each step of a
decode must keep to."""

import functools
import hashlib
import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
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
    Categorical,
    ClassifierFree,
    Cosine,
    Decoder,
    Delayed,
    Even,
    Floor,
    Free,
    Greedy,
    GridBlocks,
    Leftmost,
    Linear,
    Recompute,
    Request,
    Step,
    StepState,
    TopProbability,
    Vicinity,
    Whole,
)
from quicksilver.decoders.windows import Span
from quicksilver.models import AttentionPattern, Bidirectional, BlockCausal, Causal

from tests.conftest import MASK_ID, PATTERNS, TableModel

CONF = Path(__file__).resolve().parents[2] / "conf"
GROUPS = ("policy", "cache", "windows", "sampler", "pattern", "schedule")
Option = tuple[str, str]
"""A group and a name in it."""

# What `cover` chooses among these stays as it is whatever else `conf` comes to hold. A new option needs no entry.
FOUNDED = frozenset((group, name) for group, names in {
    "policy": """entropy_bound entropy_sum entropy_threshold factor hierarchy klass leftmost low_entropy
        noisy_probability path_planning prophet random_order redecide relative_threshold remdm_cap remdm_confidence
        remdm_loop remdm_rescale threshold token_editing top_margin top_probability""",
    "cache": "append block_causal block_causal_apart delayed dual prefix recompute vicinity",
    "windows": "blocks grid_blocks revised_blocks single whole",
    "sampler": "categorical credited cut greedy",
    "pattern": "bidirectional block_causal causal",
    "schedule": """binomial cosine dream dream_untruncated even even_floor first_hitting floor free free_cosine linear
        linear_3 linear_remainder_last single unbounded"""}.items() for name in names.split())


def options(conf: Path) -> dict[str, dict[str, Any]]:
    """By group and name what the YAML files describe, the same with other values, the patterns of attention, and what a
    short canvas needs: steps that it can end in, caches that it sees refreshed."""
    shipped = {group: {path.stem: instantiate(OmegaConf.load(path)) for path in sorted((conf / group).glob("*.yaml"))}
               for group in GROUPS}
    return shipped | {
        "pattern": PATTERNS,
        "windows": shipped["windows"] | {"single": Blocks(1), "revised_blocks": GridBlocks(4, num_revised=1)},
        "schedule": shipped["schedule"] | {"linear_3": Linear(3), "single": Linear(1), "even_floor": Floor(Even(8)),
                                           "free_cosine": Free(Cosine(8))},
        "cache": shipped["cache"] | {"vicinity": Vicinity(1, 1, 3), "delayed": Delayed(3)},
        "sampler": shipped["sampler"] | {"cut": Categorical(temperature=0.8, top_k=5, top_p=0.9)}}


@dataclass(frozen=True)
class Combination:
    name: str
    make: Callable[[], Decoder]
    pattern: AttentionPattern
    chosen: tuple[Option, ...] = ()

    @functools.cached_property
    def decoder(self) -> Decoder:
        return self.make()

    def __str__(self) -> str:
        return self.name


REFUSALS: set[str] = set()


def unless_refused(make: Callable[[], Any]) -> Any:
    """What is made, or None where its parts refuse each other, which they do with ValueError alone."""
    try:
        return make()
    except ValueError as error:
        REFUSALS.add(str(error))
        return None


def working(options: Mapping[str, Mapping[str, Any]]) -> Iterator[Combination]:
    """Every choice of one option a group whose parts accept each other and the model. No sampler is refused by any: one
    that were would raise where its combinations are decoded."""
    request = Request.completing([1, 2, 3, 4], 12, mask_id=MASK_ID)
    models = {name: TableModel(pattern) for name, pattern in options["pattern"].items()}

    @functools.cache
    def accepted(policy: str, cache: str, windows: str, schedule: str) -> Decoder | None:
        return unless_refused(lambda: Decoder(options["windows"][windows], options["schedule"][schedule], Greedy(),
                                              options["policy"][policy], options["cache"][cache]))

    @functools.cache
    def span(pattern: str, cache: str, windows: str) -> Span | None:
        decoder = Decoder(options["windows"][windows], Linear(1), Greedy(), Leftmost(), options["cache"][cache])
        return unless_refused(lambda: decoder.check(models[pattern], request))

    for names in itertools.product(*(options[group] for group in GROUPS)):
        policy, cache, windows, sampler, pattern, schedule = names
        decoder = accepted(policy, cache, windows, schedule)
        if decoder is not None and span(pattern, cache, windows) is not None:
            make = functools.partial(replace, decoder, sampler=options["sampler"][sampler])
            chosen = tuple(zip(GROUPS, names, strict=True))
            yield Combination("-".join(names), make, options["pattern"][pattern], chosen)


def held(combination: Combination, size: int) -> set[tuple[Option, ...]]:
    """Every `size` options of a combination."""
    return set(itertools.combinations(combination.chosen, size))


def cover(combinations: Iterable[Combination], size: int) -> list[Combination]:
    """Few of the combinations, which hold whatever `size` options any of them holds together. What has options beside
    the founded ones is chosen apart from what has others, so that an option that comes or goes changes no other's."""
    apart: defaultdict[frozenset[Option], list[Combination]] = defaultdict(list)
    for combination in combinations:
        apart[frozenset(combination.chosen) - FOUNDED].append(combination)
    return [found for new in sorted(apart, key=sorted) for found in _cover_what_holds(new, apart[new], size)]


def _cover_what_holds(new: frozenset[Option], combinations: list[Combination], size: int) -> Iterator[Combination]:
    """The combination that holds most of what none before it held, again and again; ties go by a hash of the name."""
    rests = [[some for some in itertools.combinations(combination.chosen, size) if not new or new <= set(some)]
             for combination in combinations]
    bit = {some: 1 << number for number, some in enumerate(set(itertools.chain.from_iterable(rests)))}
    holds, missing = [sum(bit[some] for some in rest) for rest in rests], sum(bit.values())
    queue = [(-len(rest), hashlib.sha256(combination.name.encode()).digest(), number)
             for number, (rest, combination) in enumerate(zip(rests, combinations, strict=True))]
    heapq.heapify(queue)
    while missing:
        gain, digest, number = heapq.heappop(queue)
        still = (holds[number] & missing).bit_count()
        if gain == -still:
            missing &= ~holds[number]
            yield combinations[number]
        else:  # it had more when it was counted last, so whatever is behind it in the queue may have more now
            heapq.heappush(queue, (-still, digest, number))


WORKING = list(working(options(CONF)))
PAIRS = cover(WORKING, 2)
ENDING = [Combination(f"ends-{cache}-{windows}",
                      functools.partial(Decoder, windows, Linear(2), Greedy(), Leftmost(), cache, end_id=5), pattern)
          for windows, cache, pattern in [
              (Whole(), Recompute(), Bidirectional()), (Blocks(4), Recompute(), Bidirectional()),
              (GridBlocks(4), Recompute(), BlockCausal(4)), (GridBlocks(4), BlockCausalCache(), BlockCausal(4)),
              (GridBlocks(4), BlockCausalCacheApart(), BlockCausal(4)), (Blocks(1), Recompute(), Causal()),
              (Blocks(1), Append(), Causal())]]
SINGLES = cover(WORKING, 1)
GUIDED = Combination("guided", functools.partial(Decoder, Blocks(4), Linear(2), Greedy(), TopProbability(), Recompute(),
                                                 guidance=ClassifierFree(0.7)), Bidirectional())


class Checked:
    """Looks at every step of a decode: what it changes is allowed, and what is not said to change stays."""

    def __init__(self, decoder: Decoder, requests: list[Request]) -> None:
        self.decoder, self.requests = decoder, requests
        self.before: dict[int, list[int]] = {row: list(request.tokens) for row, request in enumerate(requests)}
        self.at_start: torch.Tensor | None = None
        self.window_index, self.finished = -1, set[int]()
        self.row_steps = self.finished_row_steps = self.empty_row_steps = self.num_commits = self.num_remasked = 0

    def __call__(self, step: Step) -> None:
        query = step.window.query_BQ
        length = step.canvas.length
        before = torch.tensor([self.before[row] + [0] * (length + 1 - len(self.before[row])) for row in step.rows])
        masked = (before == MASK_ID).gather(1, query)
        if step.window.index != self.window_index:
            self.at_start, self.window_index = masked.sum(1), step.window.index
            self.finished = {row for row, count in zip(step.rows, self.at_start.tolist(), strict=True) if count == 0}
        assert self.at_start is not None
        edit = step.edit
        assert torch.equal(step.masked_BQ, masked)
        start = StepState.of_counts(self.decoder.schedule, self.at_start, size=step.window.size,
                                    size_B=step.window.size_B, seed_B=step.canvas.seed_B)
        quota = start.at_step(step.index, masked.sum(1)).quota
        count = (edit.commit_BQ & masked).sum(1)
        assert (quota.at_least_B <= count).all()
        assert (count <= quota.at_most_B).all()
        given = step.canvas.given_BS.gather(1, query)
        changed = edit.commit_BQ if edit.remask_BQ is None else edit.commit_BQ | edit.remask_BQ
        assert not (changed & given).any()
        assert not (changed & (query == length)).any()
        if self.decoder.policy.revises:
            assert edit.remask_BQ is None or not (edit.remask_BQ & (masked | edit.commit_BQ)).any()
        else:
            assert edit.remask_BQ is None
            assert not (edit.commit_BQ & ~masked).any()

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
                self.finished_row_steps += 1
                assert not changed[place].any(), "a finished row waits for the others unchanged"
            else:
                self.empty_row_steps += int(not changed[place].any())
                if not goes_on[place]:
                    self.finished.add(row)
            self.before[row] = after[place].tolist()[: len(self.requests[row].tokens)]
