"""Guidance: a step's hidden states are the model's, or combine the model's with and without the prompt.

    classifier-free   h = h_without + (scale + 1) (h_with - h_without),  without: every given position masked

On hidden states this is exact, since the head is linear: the logits combine alike (Nie et al., arXiv 2410.18514).
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor

from ..kernels.checks import LARGEST_FACTOR, real_field
from ..models.adapter import Plan
from .accounting import ForwardKind

if TYPE_CHECKING:
    from .decode_run import DecodeRun


class Guidance(Protocol):
    takes_store: ClassVar[bool]
    """Whether it supports a KV cache."""
    shows_mask: ClassVar[bool]
    """Whether it feeds masks that a causal model sees."""
    forward_kind: ClassVar[ForwardKind]
    """The kind under which its forwards are counted."""
    num_canvases: ClassVar[int]
    """Rows of a forward per row of the batch."""

    def hidden(self, run: "DecodeRun", plan: Plan) -> Tensor:
        """Hidden states at the positions that the plan reads, [B, Q, E], of the run's active canvas."""
        ...


@dataclass(frozen=True)
class Unguided:
    takes_store: ClassVar[bool] = True
    shows_mask: ClassVar[bool] = False
    forward_kind: ClassVar[ForwardKind] = "denoise"
    num_canvases: ClassVar[int] = 1

    def hidden(self, run: "DecodeRun", plan: Plan) -> Tensor:
        return run.model.hidden(run.active.tokens_BS, plan, run.store)


@dataclass(frozen=True)
class ClassifierFree:
    """Each forward has twice the rows: with the given tokens, and with them masked."""

    scale: float
    takes_store: ClassVar[bool] = False
    shows_mask: ClassVar[bool] = True
    forward_kind: ClassVar[ForwardKind] = "guided"
    num_canvases: ClassVar[int] = 2

    def __post_init__(self) -> None:
        real_field(self, "scale", above=0, at_most=LARGEST_FACTOR)

    def hidden(self, run: "DecodeRun", plan: Plan) -> Tensor:
        canvas = run.active
        without_BS = torch.where(canvas.given_BS, run.spec.mask_id, canvas.tokens_BS)
        both = replace(plan, feed_BF=plan.feed_BF.repeat(2, 1),
                       reads_BQ=None if plan.reads_BQ is None else plan.reads_BQ.repeat(2, 1),
                       stop_B=None if plan.stop_B is None else plan.stop_B.repeat(2))
        with_BQE, without_BQE = run.model.hidden(torch.cat((canvas.tokens_BS, without_BS)), both, None).chunk(2)
        return without_BQE + (self.scale + 1) * (with_BQE - without_BQE)
