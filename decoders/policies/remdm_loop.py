"""ReMDM's loop: decide, hold the number of masks while tokens are exchanged, decide the rest (arXiv 2503.00307)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...kernels.checks import real_field
from .base import Edit, Policy, Situation
from .remdm import remasking

_ROUNDING = 1e-9  # times are quotients


@dataclass(frozen=True)
class RemdmLoop(Policy):
    """From time 1 to `hold_from`, alpha rises from 0 to `alpha`; from there to `hold_until` it stays, and steps that
    begin there return decided tokens to mask at the rate eta; then it rises to 1. Ends when its time does.

    The published code takes both alphas of a step from the phase that it begins in, after which too few positions are
    masked where `hold_from` is no multiple of the step."""

    eta: float
    hold_from: float = 0.55
    hold_until: float = 0.05
    alpha: float = 0.9
    needs_free_quota: ClassVar[bool] = True
    needs_times: ClassVar[bool] = True
    revises: ClassVar[bool] = True

    def __post_init__(self) -> None:
        real_field(self, "hold_from", above=0, at_most=0.999)
        real_field(self, "hold_until", above=0, at_most=self.hold_from)
        real_field(self, "alpha", above=0, at_most=0.999)
        real_field(self, "eta", at_least=0, at_most=(1 - self.alpha) / self.alpha + 1e-9)

    def select(self, situation: Situation) -> Edit:
        assert situation.times is not None
        before, after = (time[..., None] for time in situation.times)
        hold_from, hold_until = self.hold_from + _ROUNDING, self.hold_until + _ROUNDING

        def alpha_at(time: Tensor) -> Tensor:
            first = (1 - time) * (self.alpha / (1 - self.hold_from))
            last = 1 - time * ((1 - self.alpha) / self.hold_until)
            return torch.where(time > hold_from, first, torch.where(time > hold_until, self.alpha, last))

        alpha, next_alpha = alpha_at(before), alpha_at(after)
        holds = (before <= hold_from) & (before > hold_until)
        sigma = torch.where(holds, ((1 - next_alpha) / alpha).clamp(max=self.eta), 0.0)
        return remasking(situation, alpha, next_alpha, sigma)
