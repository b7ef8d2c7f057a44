"""The sampler's proposal at the positions of a window: a token each, and the statistics that policies rank by."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.token_statistics import Statistic, TokenStatistics


@dataclass(frozen=True)
class Proposal:
    """A token for each position of the window, int64 [B, Q], and statistics, float32 [B, Q], log-probabilities in nats.
    They are 0 at unmasked positions where the head did not run. ValueError on reading a statistic that the policy does
    not declare in its `statistics`.

    A model may return a subclass with further per-position fields; policies made for it read them in `found`."""

    found: TokenStatistics

    @classmethod
    def scattered(cls, found: TokenStatistics, place_BA: Tensor, shape: torch.Size) -> "Proposal":
        """The statistics of A positions of the window, scattered to their places (int64 [B, A]) in `shape` [B, Q]."""
        scattered = {name: value.new_zeros(shape).scatter_(1, place_BA, value)
                     for name, value in vars(found).items() if value is not None}
        return cls(type(found)(**scattered))

    def _declared(self, name: Statistic) -> Tensor:
        value_BQ: Tensor | None = getattr(self.found, f"{name}_BQ")
        if value_BQ is None:
            raise ValueError(f"statistic {name} was not declared: name it in the policy's `statistics`")
        return value_BQ

    @property
    def token_BQ(self) -> Tensor:
        """The proposed token."""
        return self.found.token_BQ

    @property
    def log_prob_BQ(self) -> Tensor:
        """Log-probability of the proposed token."""
        return self._declared("log_prob")

    @property
    def canvas_log_prob_BQ(self) -> Tensor:
        """Current log-probability of the token on the canvas."""
        return self._declared("canvas_log_prob")

    @property
    def margin_BQ(self) -> Tensor:
        """Difference of the two largest probabilities."""
        return self._declared("margin")

    @property
    def logit_gap_BQ(self) -> Tensor:
        """Difference of the two largest logits."""
        return self._declared("logit_gap")

    @property
    def entropy_BQ(self) -> Tensor:
        """Entropy of the distribution."""
        return self._declared("entropy")

    @property
    def divergence_BQ(self) -> Tensor:
        """KL divergence from the previous step's distribution; infinite at a window's first step."""
        return self._declared("divergence")
