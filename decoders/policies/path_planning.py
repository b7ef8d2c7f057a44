"""P2: at each step keep the most certain positions, committed or not, and mask the rest (arXiv 2502.03540)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...kernels.checks import LARGEST_FACTOR, real_field
from ...kernels.token_statistics import Statistic
from ..proposal import Proposal
from ..step_state import StepState
from .base import Edit, Policy
from .ranking import keep_top_fraction


@dataclass(frozen=True)
class PathPlanning(Policy):
    """Rank masked positions by their proposed token's log-probability, committed ones by `eta` times their own token's,
    and keep as many as the diffusion time requires. With eta 0 committed ones rank before all masked ones; a larger eta
    remasks more of them. Ends when its time does.

    The model is its own planner. It scores a committed position by the token on the canvas; the published code by the
    token that it would draw there now, and all positions by logits with the noise of the draw."""

    eta: float = 1.0
    statistics: ClassVar[frozenset[Statistic]] = frozenset({"log_prob", "canvas_log_prob"})
    needs_free_quota: ClassVar[bool] = True
    needs_times: ClassVar[bool] = True
    revises: ClassVar[bool] = True

    def __post_init__(self) -> None:
        real_field(self, "eta", at_least=0, at_most=LARGEST_FACTOR)

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        masked_BQ, revisable_BQ, after_B = state.masked_BQ, state.revisable_BQ, state.times.after
        # Clamped, since 0 * -inf is NaN.
        canvas_BQ = proposal.canvas_log_prob_BQ.clamp(min=torch.finfo(torch.float32).min)
        # A probability may round to 1, but with eta 0 no masked position may rank before a committed one.
        proposed_BQ = proposal.log_prob_BQ.clamp(max=-torch.finfo(torch.float32).tiny)
        kept_BQ = keep_top_fraction(torch.where(masked_BQ, proposed_BQ, self.eta * canvas_BQ), masked_BQ | revisable_BQ,
                                    after_B)
        return Edit(kept_BQ & masked_BQ, revisable_BQ & ~kept_BQ, after_B > 0)
