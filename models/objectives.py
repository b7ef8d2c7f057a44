"""Training objectives, one per family, and the exact-k likelihood estimator.

    autoregressive     -1/n sum_i log p(x_i | x_<i)
    masked diffusion   E_t 1/t 1/n sum_{i masked} -log p(x_i | x_t)     t ~ U(0, 1], each target masked with prob. t
                       (the negative ELBO per token of MDLM, arXiv 2406.07524, and LLaDA, 2502.09992)
    block diffusion    the same in each block, given the clean blocks before it (BD3-LM, arXiv 2503.09573)
    exact k            E_k n/k E_{|m| = k} sum_{i in m} -log p(x_i | x_rest), k uniform on 1..n: equals the mean over
                       orders of the chain-rule NLL, hence is never below -log of the mean over orders of p(x)

The bounds of masked diffusion and of exact k are one; masking.py has two ways to estimate it in training.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Generator, Tensor

from ..kernels.checks import check_integer, integer_field
from ..kernels.masked_cross_entropy import masked_cross_entropy
from .attention import AttentionMask, AttentionPattern, BD3LMMask, Bidirectional, BlockCausal, Causal
from .masking import Independent, Masking, masked_by_count
from .transformer import Transformer

# To recipes that had been recorded: the default goes without saying there (experiments/harness/records.py).
_ADDED_LATER = {"added_later": True}


class Objective(Protocol):
    """The loss of a family, with the attention pattern and the shift of its model."""

    @property
    def attention(self) -> AttentionPattern: ...
    @property
    def shift(self) -> int: ...

    def loss(self, model: Transformer, tokens_BL: Tensor, target_BL: Tensor, *, mask_id: int,
             generator: Generator) -> Tensor:
        """Scalar loss in nats per target token; 0, with zero gradient, without targets. tokens_BL is int64, target_BL
        bool. Both and the generator are on the CPU, the loss on the model's device."""
        ...


@dataclass(frozen=True)
class AutoregressiveNLL:
    @property
    def attention(self) -> Causal:
        return Causal()

    @property
    def shift(self) -> int:
        return 1

    def loss(self, model: Transformer, tokens_BL: Tensor, target_BL: Tensor, *, mask_id: int,
             generator: Generator) -> Tensor:
        predicted = _Predicted.of(model, tokens_BL[:, 1:], target_BL[:, 1:])
        nll_M = predicted.nll(model.sequence_hidden(_to_device(model, tokens_BL[:, :-1]), predicted.index_BQ))
        return _mean(nll_M, target_BL[:, 1:])


@dataclass(frozen=True)
class MaskedDiffusion:
    masking: Masking = field(default=Independent(), metadata=_ADDED_LATER)

    @property
    def attention(self) -> Bidirectional:
        return Bidirectional()

    @property
    def shift(self) -> int:
        return 0

    def loss(self, model: Transformer, tokens_BL: Tensor, target_BL: Tensor, *, mask_id: int,
             generator: Generator) -> Tensor:
        masked_BL, weight_B1 = self.masking.draw(target_BL, generator)
        predicted = _Predicted.of(model, tokens_BL, masked_BL)
        noisy_BL = _to_device(model, tokens_BL.masked_fill(masked_BL, mask_id))
        nll_M = predicted.nll(model.sequence_hidden(noisy_BL, predicted.index_BQ))
        return _mean(nll_M * _to_device(model, weight_B1.expand_as(masked_BL)[masked_BL]), target_BL)


@dataclass(frozen=True)
class BlockDiffusion:
    """Blocks are on the absolute grid: block b is positions b * block to (b + 1) * block - 1."""

    block: int
    masking: Masking = field(default=Independent(), metadata=_ADDED_LATER)

    def __post_init__(self) -> None:
        integer_field(self, "block")

    @property
    def attention(self) -> BlockCausal:
        return BlockCausal(self.block)

    @property
    def shift(self) -> int:
        return 0

    def loss(self, model: Transformer, tokens_BL: Tensor, target_BL: Tensor, *, mask_id: int,
             generator: Generator) -> Tensor:
        num_rows, length = tokens_BL.shape
        if length % self.block:
            raise ValueError(f"block={self.block}: must divide the sequence length {length}")
        masked_GL, weight_G1 = self.masking.draw(target_BL.reshape(-1, self.block), generator)
        masked_BL = masked_GL.view(num_rows, length)
        weight_BL = weight_G1.expand_as(masked_GL).reshape(num_rows, length)
        noisy_clean_BF = torch.cat((tokens_BL.masked_fill(masked_BL, mask_id), tokens_BL), dim=1)
        labels_1F = _to_device(model, torch.arange(2 * length)[None])
        mask = AttentionMask(BD3LMMask(self.block, length), labels_1F, labels_1F)
        predicted = _Predicted.of(model, tokens_BL, masked_BL)
        hidden_BQE = model.hidden(_to_device(model, noisy_clean_BF), labels_1F % length, mask,
                                  index_BQ=predicted.index_BQ)
        nll_M = predicted.nll(hidden_BQE)
        return _mean(nll_M * _to_device(model, weight_BL[masked_BL]), target_BL)


def exact_k_nll(model: Transformer, tokens_BL: Tensor, target_BL: Tensor, *, mask_id: int, num_draws: int,
                generator: Generator) -> tuple[Tensor, Tensor]:
    """Estimate each row's order-averaged NLL in nats from `num_draws` masks: (mean, standard error), each [B]; 0 for a
    row without targets.

    k covers 1..n with low discrepancy across the draws; a mask is a uniformly random set of k targets."""
    check_integer("num_draws", num_draws, at_least=2)
    start_B = torch.rand(len(tokens_BL), generator=generator)
    draws = []
    for draw in range(num_draws):
        masked_BL, weight_B1 = masked_by_count(target_BL, (start_B + draw / num_draws) % 1.0, generator)
        predicted = _Predicted.of(model, tokens_BL, masked_BL)
        noisy_BL = _to_device(model, tokens_BL.masked_fill(masked_BL, mask_id))
        nll_M = predicted.nll(model.sequence_hidden(noisy_BL, predicted.index_BQ))
        nll_BL = torch.zeros(tokens_BL.shape).masked_scatter(masked_BL, nll_M.cpu())
        draws.append((nll_BL * weight_B1).sum(1))
    nll_DB = torch.stack(draws)
    return nll_DB.mean(0), nll_DB.std(0) / num_draws**0.5


def _mean(loss_M: Tensor, target_BL: Tensor) -> Tensor:
    """The sum of the losses divided by the number of targets; 0 if there are none."""
    return loss_M.sum() / max(int(target_BL.sum()), 1)


@dataclass(frozen=True)
class _Predicted:
    """The predicted positions of a batch. The last layer and the head run only at these."""

    model: Transformer
    index_BQ: Tensor
    """Ascending positions, int64 on the model's device. Rows with fewer predicted positions are padded with others."""
    is_predicted_BQ: Tensor
    token_M: Tensor

    @classmethod
    def of(cls, model: Transformer, tokens_BL: Tensor, predicted_BL: Tensor) -> "_Predicted":
        """tokens_BL (int64) are predicted where predicted_BL (bool) is true; both are on the CPU."""
        most = max([1, *predicted_BL.sum(1).tolist()])
        index_BQ = (~predicted_BL).byte().argsort(stable=True, dim=1)[:, :most]
        return cls(model, _to_device(model, index_BQ), _to_device(model, predicted_BL.gather(1, index_BQ)),
                   _to_device(model, tokens_BL[predicted_BL]))

    def nll(self, hidden_BQE: Tensor) -> Tensor:
        """NLL in nats of each predicted token, row by row: float32 [M]."""
        if self.model.config.shape.logit_cap is not None:
            raise ValueError(f"logit_cap={self.model.config.shape.logit_cap:g}: must be none in training, whose loss "
                             "reads the head's weights")
        return masked_cross_entropy(hidden_BQE[self.is_predicted_BQ], self.model.head.weight, self.token_M)


def _to_device(model: Transformer, tensor: Tensor) -> Tensor:
    """The tensor on the model's device. Random numbers are drawn on the CPU, so that they are the same everywhere."""
    return tensor.to(model.head.weight.device)
