"""Which targets a diffusion objective masks, and the weight of each one's loss.

Two unbiased estimators of one bound. Each target masked with probability t and weighed by 1/t, t uniform: over all t
the sets of k of n targets weigh C(n, k) int t^(k-1) (1-t)^(n-k) dt = 1/k together. Drawn with k uniform on 1..n and
weighed by n/k they weigh the same, without what t adds to the variance: weights of up to 1/t, rows without a mask.

G groups of L positions: rows, or the blocks of rows.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

_SMALLEST_T = 1e-3


class Masking(Protocol):
    def draw(self, target_GL: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """The masked targets, bool [G, L], and the weight of the losses in each group, float32 [G, 1]. target_GL is
        bool, on the CPU like the generator."""
        ...


@dataclass(frozen=True)
class ExactCount:
    """k targets of a group of n, k uniform on 1..n, each weighed by n/k (order-agnostic training, ARDM: Hoogeboom et
    al., arXiv 2110.02037)."""

    def draw(self, target_GL: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        share_G = _covering(len(target_GL), generator)
        return masked_by_count(target_GL, share_G, generator)


@dataclass(frozen=True)
class Independent:
    """Each target with probability t, weighed by 1/t, t ~ U(0, 1] (MDLM, arXiv 2406.07524; LLaDA, 2502.09992)."""

    def draw(self, target_GL: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        t_G1 = _SMALLEST_T + (1 - _SMALLEST_T) * _covering(len(target_GL), generator)[:, None]
        return target_GL & (torch.rand(target_GL.shape, generator=generator) < t_G1), 1 / t_G1


def masked_by_count(target_GL: Tensor, share_G: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Random k = 1 + floor(share n) of each group's n targets, share in [0, 1), and n / k, as `Masking.draw` returns
    them."""
    num_targets_G1 = target_GL.sum(1, keepdim=True)
    most_G1 = num_targets_G1.clamp(min=1)
    k_G1 = torch.minimum((share_G[:, None] * most_G1).long() + 1, most_G1)  # a product rounded up would be n + 1
    key_GL = torch.rand(target_GL.shape, generator=generator).masked_fill(~target_GL, torch.inf)
    rank_GL = key_GL.argsort(1).argsort(1)
    return target_GL & (rank_GL < k_G1), num_targets_G1 / k_G1


def _covering(num: int, generator: Generator) -> Tensor:
    """`num` values that cover [0, 1) evenly, in random order, each marginally uniform: float32 [num] (Kingma et al.,
    arXiv 2107.00630)."""
    value = (torch.rand((), generator=generator) + torch.arange(num) / num) % 1.0
    return value[torch.randperm(num, generator=generator)]
