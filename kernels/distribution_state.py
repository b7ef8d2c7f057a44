"""What a window keeps of whole distributions from one step to the next, float32 [B, Q, V], written in place: the only
state as large as the vocabulary.

    previous distribution   KL(p_now || p_before), then p_before := p_now                  (KLASS, arXiv 2511.05664)
    token credit            c := beta c + [v = argmax z] (max p)^gamma where masked,       (dInfer, arXiv 2510.08666)
                            z := z + alpha log(1 + c)
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PreviousDistribution:
    """Log-probabilities of the step before; at first -inf, from which everything diverges infinitely."""

    log_probs_BQV: Tensor

    @classmethod
    def empty(cls, shape: torch.Size, device: torch.device) -> "PreviousDistribution":
        return cls(torch.full(shape, -torch.inf, device=device))

    def divergence(self, logits_BQV: Tensor, temperature: float) -> Tensor:
        """KL divergence of softmax(logits / temperature) from the step before, float32 [B, Q] in nats. Then that is the
        step before."""
        now_BQV = (logits_BQV.float() / temperature).log_softmax(-1)
        now_BQV = torch.where(now_BQV.isnan(), -torch.inf, now_BQV)  # where nothing is allowed
        p_BQV = now_BQV.exp()
        term_BQV = torch.where(p_BQV > 0, p_BQV * (now_BQV - self.log_probs_BQV), 0)
        self.log_probs_BQV.copy_(now_BQV)
        return term_BQV.sum(-1)


@dataclass(frozen=True)
class TokenCredit:
    """What tokens have earned by being the most probable ones: strength alpha, decay beta and exponent gamma. masked_BQ
    says where credit is earned now."""

    credit_BQV: Tensor
    masked_BQ: Tensor
    alpha: float
    beta: float
    gamma: float

    def fused(self, logits_BQV: Tensor) -> Tensor:
        """Update the credit by the logits of this step, and add it to them."""
        probability_BQ, token_BQ = logits_BQV.float().softmax(-1).max(-1)
        earns_BQ = self.masked_BQ & (probability_BQ > 0)  # not where nothing is allowed
        earned_BQ = torch.where(earns_BQ, probability_BQ.pow(self.gamma), 0)
        self.credit_BQV.mul_(self.beta).scatter_add_(2, token_BQ[..., None], earned_BQ[..., None])
        return logits_BQV + self.alpha * self.credit_BQV.log1p()
