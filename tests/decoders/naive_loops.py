"""Published decoding loops written out from their papers, one row at a time, greedily, on a naive transformer.

Each takes the tokens (with masks) and where the completion begins, and returns the decoded tokens."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import count, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from tests.conftest import MASK_ID
from tests.decoders.naive import Memory, NaiveTransformer


class Choice(NamedTuple):
    """The most probable token at a position; as tuples, the more confident sorts first, then the lower position."""

    doubt: float
    position: int
    token: int


Confidence = Callable[[Tensor], Tensor]
"""Of log-probabilities [Q, V], [Q]."""


def most_probable(log_probs_QV: Tensor) -> Tensor:
    return log_probs_QV.amax(-1)


def margin(log_probs_QV: Tensor) -> Tensor:
    best_QV = log_probs_QV.exp().sort(-1, descending=True).values
    return best_QV[:, 0] - best_QV[:, 1]


def negative_entropy(log_probs_QV: Tensor) -> Tensor:
    return (log_probs_QV.exp() * log_probs_QV).nan_to_num(0).sum(-1)


def masked(tokens: Sequence[int], begin: int, end: int) -> list[int]:
    return [position for position in range(begin, end) if tokens[position] == MASK_ID]


def surest_first(log_probs_QV: Tensor, positions: list[int], confidence: Confidence = most_probable) -> list[Choice]:
    doubts, best = (-confidence(log_probs_QV)).tolist(), log_probs_QV.argmax(-1).tolist()
    return sorted(map(Choice, doubts, positions, best))


def fill(tokens: list[int], choices: list[Choice]) -> None:
    for choice in choices:
        tokens[choice.position] = choice.token


def llada(naive: NaiveTransformer, tokens: list[int], start: int, *, block: int, steps: int, scale: float | None = None
          ) -> list[int]:
    """LLaDA, algorithm 5 (arXiv 2502.09992), with classifier-free guidance (arXiv 2410.18514) where `scale` is given:
    in each block of M masks, M // T a step, the remainder in the first steps."""
    given = [token != MASK_ID for token in tokens]
    for begin in range(start, len(tokens), block):
        masks = len(masked(tokens, begin, begin + block))
        for step in range(steps):
            open_ones = masked(tokens, begin, begin + block)
            logits_QV = naive.logits(tokens, open_ones)
            if scale is not None:
                bare = [MASK_ID if kept else token for kept, token in zip(given, tokens, strict=True)]
                bare_QV = naive.logits(bare, open_ones)
                logits_QV = bare_QV + (scale + 1) * (logits_QV - bare_QV)
            logits_QV[:, MASK_ID] = -torch.inf
            quota = masks // steps + (step < masks % steps)
            fill(tokens, surest_first(logits_QV.log_softmax(-1), open_ones)[:quota])
    return tokens


def autoregression(naive: NaiveTransformer, tokens: list[int], start: int) -> list[int]:
    for position in range(start, len(tokens)):
        fill(tokens, surest_first(naive.log_probs(tokens, [position]), [position]))
    return tokens


def dream(naive: NaiveTransformer, tokens: list[int], start: int, *, steps: int, order: Confidence) -> list[int]:
    """Dream's diffusion_generate at batch 1: floor(m (1 - s / t)) of the m masks, all in the last step."""
    times = torch.linspace(1, 1e-3, steps + 1).tolist()
    for step, (time, next_time) in enumerate(pairwise(times)):
        open_ones = masked(tokens, start, len(tokens))
        quota = len(open_ones) if step == steps - 1 else int(len(open_ones) * (1 - next_time / time))
        fill(tokens, surest_first(naive.log_probs(tokens, open_ones), open_ones, order)[:quota])
    return tokens


def block_diffusion(naive: NaiveTransformer, tokens: list[int], start: int, *, block: int, steps: int, tau: float
                    ) -> list[int]:
    """SDAR and LLaDA2: blocks on the row's own grid, whose clean keys and values are stored in a forward apart; in each
    step all above tau, or, where these are fewer, B // T of the surest, and one more in the first B % T steps."""
    memory, first = Memory(), start // block * block
    if first:
        naive.logits(tokens, [], list(range(first)), memory)
    for begin in range(first, len(tokens), block):
        inside = list(range(begin, begin + block))
        for step in count():
            open_ones = masked(tokens, begin, begin + block)
            log_probs_QV = naive.log_probs(tokens, open_ones, inside, memory)
            if not open_ones:
                break
            choices = surest_first(log_probs_QV, open_ones)
            above = [choice for choice in choices if math.exp(-choice.doubt) > tau]
            quota = block // steps + (step < block % steps)
            fill(tokens, above if len(above) >= quota else choices[:quota])
    return tokens


def entropy_bounded(naive: NaiveTransformer, tokens: list[int], start: int, *, gamma: float) -> list[int]:
    """EB-Sampler (arXiv 2505.24857): as many of the lowest entropies as sum, less the largest, to gamma at most."""
    while open_ones := masked(tokens, start, len(tokens)):
        choices = surest_first(naive.log_probs(tokens, open_ones), open_ones, negative_entropy)
        entropies = [choice.doubt for choice in choices]
        fits = [n for n in range(1, len(choices) + 1) if sum(entropies[:n]) - max(entropies[:n]) <= gamma]
        fill(tokens, choices[: max(fits)])
    return tokens


def klass(naive: NaiveTransformer, tokens: list[int], start: int, *, block: int, tau: float, epsilon: float,
          history: int) -> list[int]:
    """KLASS (arXiv 2511.05664): all that are above tau and have diverged by less than epsilon from the step before in
    each of the last steps; where there are none, the surest."""
    everywhere = list(range(len(tokens)))
    for begin in range(start, len(tokens), block):
        seen, diverged = list[Tensor](), list[list[float]]()
        while open_ones := masked(tokens, begin, begin + block):
            seen.append(naive.log_probs(tokens, everywhere))
            diverged += [(now.exp() * (now - before)).nan_to_num(0).sum(-1).tolist()
                         for before, now in pairwise(seen[-2:])]
            stable = [position for position in open_ones if len(diverged) >= history
                      and all(divergence[position] < epsilon for divergence in diverged[-history:])]
            choices = surest_first(seen[-1][open_ones], open_ones)
            ready = [choice for choice in choices if math.exp(-choice.doubt) > tau and choice.position in stable]
            fill(tokens, ready or choices[:1])
    return tokens


def diffusion_vs_ar(naive: NaiveTransformer, tokens: list[int], start: int, *, rates: Sequence[float | Fraction]
                    ) -> list[int]:
    """Ye et al. (arXiv 2410.14157): decide everything anew at each step, and mask the n rate least sure again."""
    maskable = masked(tokens, start, len(tokens))
    for rate in rates:
        choices = surest_first(naive.log_probs(tokens, maskable), maskable)
        fill(tokens, choices)
        for choice in choices[len(maskable) - int(len(maskable) * rate) :]:
            tokens[choice.position] = MASK_ID
    return tokens


def path_planning(naive: NaiveTransformer, tokens: list[int], start: int, *, steps: int, eta: float) -> list[int]:
    """P2 (arXiv 2502.03540), the model its own planner: of all positions the least probable are masked, those decided
    by eta times their own token's log-probability."""
    maskable = masked(tokens, start, len(tokens))
    for step in range(1, steps + 1):
        log_probs_QV = naive.log_probs(tokens, maskable)
        choices = surest_first(log_probs_QV, maskable)
        ranked = sorted(choice if tokens[choice.position] == MASK_ID else
                        Choice(-eta * float(log_probs_QV[maskable.index(choice.position), tokens[choice.position]]),
                               choice.position, tokens[choice.position]) for choice in choices)
        num_masks = int(len(maskable) * Fraction(steps - step, steps))
        fill(tokens, ranked)
        for choice in ranked[len(maskable) - num_masks :]:
            tokens[choice.position] = MASK_ID
    return tokens


def token_editing(naive: NaiveTransformer, tokens: list[int], start: int, *, block: int, draft: float, edit: float,
                  passes: int, num_revised: int) -> list[int]:
    """LLaDA2.1 (arXiv 2602.08676): masks above `draft` are filled, and one at least; decided tokens of this block and
    of `num_revised` before it give way to others above `edit`; after the last mask, passes until nothing changes."""
    given, first = [token != MASK_ID for token in tokens], start // block * block
    for begin in range(first, len(tokens), block):
        revised = range(max(begin - num_revised * block, first), begin + block)
        num_passes = 0
        while num_passes <= passes:
            open_ones = masked(tokens, begin, begin + block)
            num_passes += not open_ones
            if num_passes > passes:
                break
            choices = surest_first(naive.log_probs(tokens, list(revised)), list(revised))
            drafts = [choice for choice in choices if choice.position in open_ones]
            edits = [choice for choice in choices if not given[choice.position] and choice.position not in open_ones
                     and choice.token != tokens[choice.position] and math.exp(-choice.doubt) > edit]
            fill(tokens, [choice for choice in drafts if math.exp(-choice.doubt) > draft] or drafts[:1])
            fill(tokens, edits)
            if not open_ones and not edits:
                break
    return tokens
