"""One step of a decode as its consumers see it: for the batch, or per request."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.adapter import Plan
from .canvas import Canvas
from .policies.base import Edit
from .proposal import Proposal
from .windows import Window


@dataclass(frozen=True)
class RequestStep:
    """What a step did to one request, on the host: the window's positions (int64 [Q]), which of them were masked before
    the step (bool), the proposed tokens (int64) with their log-probabilities in nats (float32, None if the policy does
    not declare them), and which were committed and which remasked (bool)."""

    request: int
    position_Q: Tensor
    masked_Q: Tensor
    token_Q: Tensor
    log_prob_Q: Tensor | None
    commit_Q: Tensor
    remask_Q: Tensor


@dataclass(frozen=True)
class Step:
    """A finished step; its tensors are valid until the next one.

    index       number of the step in its window
    window      the positions that it could change, [B, Q]
    rows        the request of each row of the batch
    canvas      the batch after the step
    masked_BQ   which positions were masked before it
    plan        the forward that it took
    proposal    the sampler's; meaningful at unmasked positions only for policies that revise
    edit        the positions committed and remasked
    status_3    numbers of rows, int64 [3]: unfinished; with an end token in the window; with non-finite logits
    """

    index: int
    window: Window
    rows: tuple[int, ...]
    canvas: Canvas
    masked_BQ: Tensor
    plan: Plan
    proposal: Proposal
    edit: Edit
    status_3: Tensor

    def by_request(self) -> list[RequestStep]:
        """The step per request, in the order of the batch's rows. Synchronizes with the device."""
        commit_BQ, remask_BQ = self.edit.commit_BQ, self.edit.remask_BQ
        remask_BQ = torch.zeros_like(commit_BQ) if remask_BQ is None else remask_BQ
        position_BQ, masked_BQ, token_BQ, commit_BQ, remask_BQ = (
            value_BQ.cpu() for value_BQ in (self.window.query_BQ, self.masked_BQ, self.proposal.token_BQ, commit_BQ,
                                            remask_BQ))
        log_prob_BQ = self.proposal.found.log_prob_BQ
        log_probs = len(self.rows) * [None] if log_prob_BQ is None else log_prob_BQ.cpu()
        return [RequestStep(*row) for row in zip(self.rows, position_BQ, masked_BQ, token_BQ, log_probs, commit_BQ,
                                                 remask_BQ, strict=True)]
