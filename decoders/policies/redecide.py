"""Top-k decoding with remasking: every step proposes every position anew and keeps the most probable ones (Ye et al.,
"Beyond autoregression", arXiv 2410.14157; Zheng et al., arXiv 2302.05737)."""

from dataclasses import dataclass
from typing import ClassVar

from ...kernels.checks import LARGEST_FACTOR, real_field
from ...kernels.counter_rng import uniform
from ...kernels.token_statistics import Statistic
from ..proposal import Proposal
from ..step_state import StepState
from .base import Edit, Policy
from .ranking import keep_top_fraction


@dataclass(frozen=True)
class Redecide(Policy):
    """Rank masked and committed positions alike by their proposed token's log-probability, with Gumbel noise times
    `noise` times the diffusion time after the step. Keep as many as that time requires, with the tokens proposed now,
    and remask the others. Ends when its time does."""

    noise: float = 0.0
    statistics: ClassVar[frozenset[Statistic]] = frozenset({"log_prob"})
    needs_free_quota: ClassVar[bool] = True
    needs_times: ClassVar[bool] = True
    revises: ClassVar[bool] = True

    def __post_init__(self) -> None:
        real_field(self, "noise", at_least=0, at_most=LARGEST_FACTOR)

    def select(self, state: StepState, proposal: Proposal) -> Edit:
        score_BQ, revisable_BQ, after_B = proposal.log_prob_BQ, state.revisable_BQ, state.times.after
        if self.noise:
            u_BQ = uniform(state.seed_B, state.query_BQ, state.step_B)
            score_BQ = score_BQ - (self.noise * after_B).float()[:, None] * (-u_BQ.log()).log()
        kept_BQ = keep_top_fraction(score_BQ, state.masked_BQ | revisable_BQ, after_B)
        return Edit(kept_BQ, revisable_BQ & ~kept_BQ, after_B > 0)
