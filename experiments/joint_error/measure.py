"""The joint error: the loss of a step that commits several tokens as if they were independent.

A step commits x_1 ... x_k on a canvas c. With p the model's distributions from full forwards, H_i the entropy of
p(x_i | c), and the tokens in order of falling probability:

    product = sum_i log p(x_i | c)
    joint   = sum_i log p(x_i | c, x_1 ... x_(i-1))            teacher-forced, one by one
    gap     = product - joint                                  for the tokens that were committed
    bound   = sum_i H_i - max_i H_i                            (EB-Sampler, arXiv 2505.24857)

The gap is that of one outcome: positive if the tokens are less likely together than under independence. If the
p(x_i | c) are the marginals of the joint,

    E[gap]  over the product  =  KL(product || joint)  >= 0    the loss of parallel draws; unbounded
    E[-gap] over the joint    =  KL(joint || product)  <= bound
    -gap                      <= sum_i s_i - max_i s_i         for every outcome, s_i = -log p(x_i | c)

so the bound limits how dependent the tokens can be before they are known; the gap shows whether the committed ones are
consistent. A trained model's marginals are only roughly those of its joint, and then these hold roughly.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...decoders import Canvas, Completion, Decoder, Request
from ...decoders.caches.exact import full_forward
from ...decoders.windows import Window
from ...kernels.checks import check_integer
from ...kernels.token_statistics import StatisticsRequest, TokenStatistics
from ...models import LanguageModel


@dataclass(frozen=True)
class ParallelCommit:
    """One step's commit to masked positions of one request: number of tokens, and in nats the bound and the
    log-probabilities of the product and of the joint."""

    request: int
    window: int
    step: int
    num_tokens: int
    bound: float
    product: float
    joint: float

    @property
    def gap(self) -> float:
        return self.product - self.joint


@dataclass(frozen=True)
class MeasuredDecode:
    """The completions of a decode, and its commits of one token or more in order."""

    completions: list[Completion]
    commits: list[ParallelCommit]


@torch.inference_mode()
def joint_errors(decoder: Decoder, model: LanguageModel, requests: Sequence[Request], *, rows_per_forward: int = 256
                 ) -> MeasuredDecode:
    """Decode the requests as one batch and measure every commit. Probabilities are the model's own, at temperature 1,
    from full forwards, for any sampler and cache of the decoder. A commit of k tokens takes k forwards of one row,
    which are batched with others up to `rows_per_forward` rows."""
    check_integer("rows_per_forward", rows_per_forward)
    run = decoder.begin(model, requests)
    every_row_B = torch.arange(len(requests), device=model.spec.device)
    before, commits = run.active.rows(every_row_B), []
    for step in decoder.stream(run):
        row_B = torch.tensor(step.rows, device=model.spec.device)
        measured = commit_error(model, before.rows(row_B), step.window, step.edit.commit_BQ & step.masked_BQ,
                                step.proposal.token_BQ, rows_per_forward)
        commits += [ParallelCommit(one.request, step.window.index, step.index, num_tokens, *values)
                    for one, values in zip(step.by_request(), measured.T.tolist(), strict=True)
                    if (num_tokens := int((one.commit_Q & one.masked_Q).sum()))]
        before.put_rows(row_B, step.canvas)
    return MeasuredDecode(decoder.completions(run), commits)


def commit_error(model: LanguageModel, canvas: Canvas, window: Window, commit_BQ: Tensor, token_BQ: Tensor,
                 rows_per_forward: int) -> Tensor:
    """Bound, product and joint, in nats, of committing tokens (int64 [B, Q]) where commit_BQ (bool) is true, on the
    canvas before the commit: float32 [3, B]."""
    alone = _asked(model, canvas, window, token_BQ)
    assert alone.canvas_log_prob_BQ is not None
    assert alone.entropy_BQ is not None
    entropy_BQ = alone.entropy_BQ.masked_fill(~commit_BQ, 0)
    bound_B = entropy_BQ.sum(1) - entropy_BQ.amax(1)
    log_prob_BQ = alone.canvas_log_prob_BQ.masked_fill(~commit_BQ, -torch.inf)
    order_BQ = log_prob_BQ.argsort(dim=1, descending=True, stable=True)
    product_B = log_prob_BQ.masked_fill(~commit_BQ, 0).sum(1)
    joint_B = log_prob_BQ.amax(1).masked_fill(~commit_BQ.any(1), 0)
    row_T, query_T1, token_T1, tokens_TS = _one_by_one(canvas, window.query_BQ.gather(1, order_BQ),
                                                       token_BQ.gather(1, order_BQ), commit_BQ.sum(1))
    for begin in range(0, len(row_T), rows_per_forward):
        part = slice(begin, begin + rows_per_forward)
        stop_T = window.stop_B[row_T[part]]
        asked = _asked(model, replace(canvas, tokens_BS=tokens_TS[part]),
                       replace(window, query_BQ=query_T1[part], stop_B=stop_T), token_T1[part])
        assert asked.canvas_log_prob_BQ is not None
        joint_B.index_add_(0, row_T[part], asked.canvas_log_prob_BQ[:, 0])
    return torch.stack((bound_B, product_B, joint_B))


def _one_by_one(canvas: Canvas, position_BQ: Tensor, token_BQ: Tensor, num_B: Tensor
                ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each row and each of its first `num_B` positions except the first: the row, int64 [T]; the position and its
    token, [T, 1]; and the row's canvas with all positions earlier in that order filled in, [T, S]."""
    filled_BS, found = canvas.tokens_BS.clone(), []
    for place in range(1, max(int(num_B.max()), 1)):
        filled_BS.scatter_(1, torch.where(num_B > place, position_BQ[:, place - 1], canvas.length)[:, None],
                           token_BQ[:, place - 1, None])
        row_T = (num_B > place).nonzero()[:, 0]
        found.append((row_T, position_BQ[row_T, place, None], token_BQ[row_T, place, None], filled_BS[row_T]))
    if not found:
        return num_B[:0], position_BQ[:0, :1], token_BQ[:0, :1], filled_BS[:0]
    row_T, query_T1, token_T1, tokens_TS = (torch.cat(values) for values in zip(*found, strict=True))
    return row_T, query_T1, token_T1, tokens_TS


def _asked(model: LanguageModel, canvas: Canvas, window: Window, token_BQ: Tensor) -> TokenStatistics:
    """Log-probabilities of tokens at the window's positions, and the entropies there, from a full forward."""
    plan = full_forward(window, canvas.length)
    question = StatisticsRequest(frozenset({"canvas_log_prob", "entropy"}), canvas_token_BQ=token_BQ)
    return model.statistics(model.hidden(canvas.tokens_BS, plan, None), question)
