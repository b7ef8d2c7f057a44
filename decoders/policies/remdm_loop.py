"""ReMDM's loop: commit, hold the number of masks while tokens are exchanged, commit the rest (arXiv 2503.00307)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...kernels.checks import real_field
from ..proposal import Proposal
from ..step_state import StepState
from .base import Edit, Policy
from .remdm import remasking

_ROUNDING = 1e-9  # times are quotients


@dataclass(frozen=True)
class RemdmLoop(Policy):
    """From time 1 to `hold_from`, alpha rises from 0 to `alpha`. Until `hold_until` it is constant, and steps beginning
    in this phase remask at rate eta. Then it rises to 1. Ends when its time does.

    The published code takes both alphas of a step from the phase in which it begins, which leaves too few positions
    masked where `hold_from` is not a multiple of the step."""

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

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        before_B1, after_B1 = (time_B[:, None] for time_B in state.times)
        hold_from, hold_until = self.hold_from + _ROUNDING, self.hold_until + _ROUNDING

        def alpha_at(time_B1: Tensor) -> Tensor:
            first_B1 = (1 - time_B1) * (self.alpha / (1 - self.hold_from))
            last_B1 = 1 - time_B1 * ((1 - self.alpha) / self.hold_until)
            return torch.where(time_B1 > hold_from, first_B1, torch.where(time_B1 > hold_until, self.alpha, last_B1))

        alpha_B1, next_alpha_B1 = alpha_at(before_B1), alpha_at(after_B1)
        holds_B1 = (before_B1 <= hold_from) & (before_B1 > hold_until)
        sigma_B1 = torch.where(holds_B1, ((1 - next_alpha_B1) / alpha_B1).clamp(max=self.eta), 0.0)
        return remasking(state, alpha_B1, next_alpha_B1, sigma_B1)
