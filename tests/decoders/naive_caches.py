"""Loops with a cache for a bidirectional model, from the definition of what it computes anew at a step: the naive
transformer keeps the keys and values of all positions and layers, and those of the positions fed are replaced."""

import math
from collections.abc import Callable
from typing import NamedTuple

from tests.decoders.naive import Memory, NaiveTransformer
from tests.decoders.naive_loops import fill, masked, surest_first


def threshold(tau: float) -> Callable[[list[float]], int]:
    """How many of descending probabilities to commit: those of at least tau, and one at least."""
    return lambda probabilities: max(1, sum(p >= tau for p in probabilities))


def factor(limit: float) -> Callable[[list[float]], int]:
    """The largest n for which (n + 1)(1 - p_n) < limit, and one at least."""
    def num(probabilities: list[float]) -> int:
        return max([n for n, p in enumerate(probabilities, 1) if (n + 1) * (1 - p) < limit], default=1)
    return num


class At(NamedTuple):
    """Where a loop with a cache is: window and step within it from 0, the window, the tokens, what was just decided."""

    window: int
    step: int
    begin: int
    end: int
    tokens: list[int]
    just_decided: list[int]

    @property
    def everything(self) -> list[int]:
        return list(range(len(self.tokens)))

    def between(self, begin: int, end: int) -> list[int]:
        return list(range(max(begin, 0), min(end, len(self.tokens))))


Feeds = Callable[[At], list[int]]
"""The positions that a cache has computed anew."""


def no_cache(at: At) -> list[int]:
    return at.everything


def prefix(at: At) -> list[int]:
    """Fast-dLLM's: everything on entering a block, then the block and what follows it."""
    return at.everything if at.step == 0 else at.between(at.begin, len(at.tokens))


def dual(at: At) -> list[int]:
    """Fast-dLLM's: everything on entering a block, then the block."""
    return at.everything if at.step == 0 else at.between(at.begin, at.end)


def vicinity(radius: int, warm_up: int, refresh_every: int) -> Feeds:
    """dInfer's: the block with `radius` positions on either side."""
    def feeds(at: At) -> list[int]:
        if at.step % refresh_every == 0 or (at.window == 0 and at.step < warm_up):
            return at.everything
        return at.between(at.begin - radius, at.end + radius)
    return feeds


def delayed(refresh_every: int) -> Feeds:
    """dKV-Cache's: every mask of the canvas, and what was decided by the step before."""
    def feeds(at: At) -> list[int]:
        if at.step % refresh_every == 0:
            return at.everything
        return sorted([*masked(at.tokens, 0, len(at.tokens)), *at.just_decided])
    return feeds


class Seen(NamedTuple):
    """A step: positions fed, log-probabilities of the best tokens at the window's masks, tokens decided."""

    fed: list[int]
    log_probs: dict[int, float]
    decided: dict[int, int]


def cached(naive: NaiveTransformer, tokens: list[int], start: int, *, block: int,
           num: Callable[[list[float], int, int], int], feeds: Feeds) -> list[list[Seen]]:
    """Blocks with a cache, the surest first, `num` of them: a function of the descending probabilities, of the masks at
    the block's start and of the step. The steps of every block; tokens are filled in place."""
    memory, windows = Memory(), list[list[Seen]]()
    for begin in range(start, len(tokens), block):
        steps, just_decided, masks = list[Seen](), list[int](), len(masked(tokens, begin, begin + block))
        while open_ones := masked(tokens, begin, begin + block):
            fed = feeds(At(len(windows), len(steps), begin, begin + block, tokens, just_decided))
            fed = sorted({*fed, *range(max(begin - naive.shift, 0), begin)})
            choices = surest_first(naive.log_probs(tokens, open_ones, fed, memory), open_ones)
            chosen = choices[: num([math.exp(-choice.doubt) for choice in choices], masks, len(steps))]
            fill(tokens, chosen)
            just_decided = [choice.position for choice in chosen]
            steps.append(Seen(fed, {choice.position: -choice.doubt for choice in choices},
                              {choice.position: choice.token for choice in chosen}))
        windows.append(steps)
    return windows


def fast_dllm(naive: NaiveTransformer, tokens: list[int], start: int, *, block: int,
              rule: Callable[[list[float]], int], feeds: Feeds) -> list[int]:
    """Fast-dLLM (arXiv 2505.22618)."""
    cached(naive, tokens, start, block=block, num=lambda probabilities, masks, step: rule(probabilities), feeds=feeds)
    return tokens
