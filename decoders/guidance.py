"""What a step's hidden states are made of: the model's, or the model's with and without the prompt.

    classifier-free   h = h_without + (scale + 1) (h_with - h_without),  without: every given position masked

On hidden states this is exact, since the head is linear: the logits combine alike (Nie et al., arXiv 2410.18514).
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ..kernels.checks import LARGEST_FACTOR, real_field
from ..models.adapter import LanguageModel, Plan
from ..models.kv_store import KVStore
from .accounting import Accounting
from .canvas import Canvas


class Guidance(Protocol):
    takes_store: ClassVar[bool]
    """Whether keys and values may be stored."""
    shows_mask: ClassVar[bool]
    """Whether masks stand where a causal model sees them."""

    def hidden(self, model: LanguageModel, canvas: Canvas, plan: Plan, store: KVStore | None, accounting: Accounting
               ) -> Tensor:
        """Hidden states at the plan's queried positions, [B, Q, E]; counts its forwards."""
        ...


@dataclass(frozen=True)
class Unguided:
    takes_store: ClassVar[bool] = True
    shows_mask: ClassVar[bool] = False

    def hidden(self, model: LanguageModel, canvas: Canvas, plan: Plan, store: KVStore | None, accounting: Accounting
               ) -> Tensor:
        accounting.count_forward("denoise", plan)
        return model.hidden(canvas.tokens_BS, plan, store)


@dataclass(frozen=True)
class ClassifierFree:
    """Twice the rows a forward, which is counted as a guided one."""

    scale: float
    takes_store: ClassVar[bool] = False
    shows_mask: ClassVar[bool] = True

    def __post_init__(self) -> None:
        real_field(self, "scale", above=0, at_most=LARGEST_FACTOR)

    def hidden(self, model: LanguageModel, canvas: Canvas, plan: Plan, store: KVStore | None, accounting: Accounting
               ) -> Tensor:
        without_BS = torch.where(canvas.given_BS, model.spec.mask_id, canvas.tokens_BS)
        both = replace(plan, feed_BF=plan.feed_BF.repeat(2, 1), query_BQ=plan.query_BQ.repeat(2, 1),
                       stop_B=None if plan.stop_B is None else plan.stop_B.repeat(2))
        accounting.count_forward("guided", plan, num_rows=2 * len(canvas.tokens_BS))
        with_BQE, without_BQE = model.hidden(torch.cat((canvas.tokens_BS, without_BS)), both, None).chunk(2)
        return without_BQE + (self.scale + 1) * (with_BQE - without_BQE)
