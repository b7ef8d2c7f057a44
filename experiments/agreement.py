"""What a comparison of two engines on the same weights needs: models whose decisions are separated, a count of those
that are not, and times taken in turns."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..decoders import Decoder, Request
from ..models import AttentionPattern, DecodableTransformer, Plan, Shape, Transformer, TransformerConfig
from .locks import machine_alone

CLOSE = 1e-5
_HEAD_SCALE = 6.0


def random_transformer(shape: Shape, vocab_size: int, length: int, attention: AttentionPattern, seed: int
                       ) -> Transformer:
    """A transformer in which every matrix is random and the head is scaled."""
    torch.manual_seed(seed)
    model = Transformer(TransformerConfig(vocab_size, length, attention, shape)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    model.head.weight.data *= _HEAD_SCALE
    return model


@torch.inference_mode()
def close_decisions(decoder: Decoder, model: DecodableTransformer, request: Request) -> int:
    """How many decisions of a decode were between choices closer than CLOSE: the two best logits of an undecided
    position of the window, or the confidences on the two sides of the cut."""
    num_close, decoding = 0, decoder.begin(model, [request])
    tokens_BS, masked_BS = decoding.live.tokens_BS.clone(), decoding.live.masked_BS.clone()
    position_BL = torch.arange(decoding.live.length)[None]
    for step in decoder.stream(decoding):
        query_Q = step.window.query_BQ[0]
        open_Q = masked_BS[0, query_Q]
        asked_BQ = query_Q[open_Q][None]
        logits_BQV = model.logits(model.hidden(tokens_BS, Plan(position_BL, asked_BQ), None))
        logits_BQV[..., model.mask_id] = -torch.inf
        best_BQ2 = logits_BQV.topk(2, dim=-1).values
        num_close += int((best_BQ2[..., 0] - best_BQ2[..., 1] < CLOSE).sum())
        log_prob_BQ, commit_Q = step.proposal.log_prob_BQ, step.edit.commit_BQ[0]
        left_Q = open_Q & ~commit_Q
        if log_prob_BQ is not None and left_Q.any() and commit_Q.any():
            num_close += int(log_prob_BQ[0][commit_Q].min() - log_prob_BQ[0][left_Q].max() < CLOSE)
        tokens_BS, masked_BS = step.canvas.tokens_BS.clone(), step.canvas.masked_BS.clone()
    return num_close


@dataclass(frozen=True)
class Finding:
    """A line of the comparison, and whether what must hold did."""

    text: str
    holds: bool = True


def in_turns(ours: Callable[[], object], theirs: Callable[[], object], rounds: int = 9) -> tuple[float, float, float]:
    """Median seconds of each, and the median of theirs / ours, after one round of warm-up; with the machine alone."""
    times = []
    with machine_alone():
        for _ in range(rounds + 1):
            pair = []
            for run in (ours, theirs):
                began = time.perf_counter()
                run()
                pair.append(time.perf_counter() - began)
            times.append(pair)
    times = times[1:]
    own, peer = (statistics.median(column) for column in zip(*times, strict=True))
    return own, peer, statistics.median(b / a for a, b in times)
