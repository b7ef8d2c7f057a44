"""ReMDM's loop: decide, hold the number of masks while tokens are exchanged, decide the rest (arXiv 2503.00307)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...kernels.checks import check_real
from .base import Edit, Policy, Situation
from .remdm import remasking


@dataclass(frozen=True)
class RemdmLoop(Policy):
    """From time 1 to `hold_from`, alpha rises from 0 to `alpha`; from there to `hold_until` it stays, and decided
    tokens return to mask at the rate eta; then it rises to 1. A step belongs to the phase that it begins in. Ends when
    its time does."""

    eta: float
    hold_from: float = 0.55
    hold_until: float = 0.05
    alpha: float = 0.9
    needs_free_quota: ClassVar[bool] = True
    needs_times: ClassVar[bool] = True
    revises: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real("hold_from", self.hold_from, above=0, at_most=0.999)
        check_real("hold_until", self.hold_until, above=0, at_most=self.hold_from)
        check_real("alpha", self.alpha, above=0, at_most=0.999)
        check_real("eta", self.eta, at_least=0, at_most=(1 - self.alpha) / self.alpha)

    def select(self, situation: Situation) -> Edit:
        assert situation.times is not None
        before, after = (time[..., None] for time in situation.times)
        holds = (before <= self.hold_from) & (before > self.hold_until)

        def alpha_at(time: Tensor) -> Tensor:
            first = (1 - time) * (self.alpha / (1 - self.hold_from))
            last = 1 - time * ((1 - self.alpha) / self.hold_until)
            return torch.where(holds, self.alpha, torch.where(before > self.hold_from, first, last))

        return remasking(situation, alpha_at(before), alpha_at(after), torch.where(holds, self.eta, 0.0))
