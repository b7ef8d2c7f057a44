"""A function from tokens to logits as a LanguageModel: the minimum that can be decoded.

    logits_BLV = function(tokens_BL)

Its hidden states are its logits: querying few positions saves nothing, and there are no keys and values to store.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..kernels.batch_invariance import refuse_if_batch_invariant
from ..kernels.token_statistics import StatisticsRequest, TokenStatistics, token_statistics
from .adapter import ModelSpec, Plan
from .attention import AttentionPattern, Bidirectional
from .kv_store import KVStore

_STOCHASTIC = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)


@dataclass(frozen=True)
class LogitsFunction:
    """`function` takes tokens, int64 [B, L], and returns logits, float [B, L, vocab_size]. It must attend as `pattern`
    says. With shift 1, row q of the logits predicts position q + 1. Its cost is unknown and counted as 0.

    It never sees padding: rows of each length are passed by themselves, and a step with several lengths waits for the
    device."""

    function: Callable[[Tensor], Tensor]
    mask_id: int
    vocab_size: int
    max_length: int
    pattern: AttentionPattern = field(default_factory=Bidirectional)
    shift: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    spec: ModelSpec = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "spec", ModelSpec(self.mask_id, self.shift, self.vocab_size, self.max_length,
                                                   self.pattern, self.device, materializes_logits=True))

    def check(self, *, shows_mask: bool) -> None:
        """ValueError if the function is a module with dropout or batch normalisation in training mode."""
        parts = self.function.modules() if isinstance(self.function, nn.Module) else ()
        stochastic = next((part for part in parts if part.training and isinstance(part, _STOCHASTIC)), None)
        if stochastic is not None:
            raise ValueError(f"{type(self.function).__name__}: its {type(stochastic).__name__} is in training mode; "
                             "call its eval() first")

    def new_store(self, num_rows: int, length: int) -> KVStore:
        """ValueError: there are no keys and values."""
        raise ValueError("a function of tokens has no keys and values to store; use cache recompute")

    def hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        refuse_if_batch_invariant("a bare function from tokens to logits", "it computes all rows together")
        tokens_BL = tokens_BS[:, :-1]
        if plan.stop_B is None:
            logits_BLV = self._logits(tokens_BL)
        else:
            logits_BLV = torch.zeros(*tokens_BL.shape, self.vocab_size, device=tokens_BL.device)
            for stop in plan.stop_B.unique().tolist():
                rows_B = plan.stop_B == stop
                logits_BLV[rows_B, :stop] = self._logits(tokens_BL[rows_B, :stop]).to(logits_BLV.dtype)
        index_BQ = (plan.query_BQ - self.shift).clamp(0, tokens_BL.shape[1] - 1)
        return logits_BLV.gather(1, index_BQ[..., None].expand(-1, -1, self.vocab_size))

    def _logits(self, tokens_BL: Tensor) -> Tensor:
        logits_BLV = self.function(tokens_BL)
        if logits_BLV.shape != (*tokens_BL.shape, self.vocab_size):
            raise ValueError(f"the function returned logits of shape {list(logits_BLV.shape)} for tokens of shape "
                             f"{list(tokens_BL.shape)}: must be {[*tokens_BL.shape, self.vocab_size]}")
        return logits_BLV

    def statistics(self, hidden_BQE: Tensor, request: StatisticsRequest) -> TokenStatistics:
        return token_statistics(hidden_BQE.index_fill(-1, hidden_BQE.new_tensor(self.mask_id, dtype=torch.int64),
                                                      -torch.inf), request)

    def forward_cost(self, num_fed: int, num_keys_seen: int, num_queried: int, num_stored_read: int) -> tuple[int, int]:
        return 0, 0
