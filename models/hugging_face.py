"""A model of Hugging Face's transformers as a LanguageModel, by duck typing: transformers is not imported.

    h = what enters the output embedding,    z = output embedding of h

What a config does not say, or says wrongly, is measured when the module is wrapped (`foreign_probe`).
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.batch_invariance import refuse_if_batch_invariant
from ..kernels.checks import check_integer
from ..kernels.token_statistics import StatisticsRequest, TokenStatistics, token_statistics
from .adapter import Plan
from .attention import AttentionPattern, Causal
from .foreign_config import ForeignShape, read
from .foreign_module import ForeignModule, Masks, Storing, uncompiled
from .foreign_probe import Probe
from .foreign_storing import LengthProbe
from .kv_store import KVStore


@dataclass(frozen=True)
class HuggingFaceModel:
    """A causal or masked language model of transformers, or of remote code with its conventions; made by `of`.

    num_tokens is the width of its logits. mask_id is the token that stands for "not decided yet"; a causal model, to
    which it is never shown, may have one past its tokens. `masks` is how the module is told what it sees, and
    `storing` how it is shown stored keys and values, or the reason why these cannot be stored. Rows of different
    lengths are computed `apart` where a longer one would change a shorter one, and of a causal model's rows no more
    than the answer needs; a step then waits for the device."""

    called: ForeignModule
    shape: ForeignShape
    max_length: int
    num_tokens: int
    pattern: AttentionPattern
    masks: Masks
    apart: bool
    storing: Storing | str
    shift: int
    mask_id: int

    def __post_init__(self) -> None:
        check_integer("shift", self.shift, at_least=0, at_most=1)
        past = isinstance(self.pattern, Causal) and self.shift
        check_integer("mask_id", self.mask_id, at_least=0, at_most=self.num_tokens - 1 + int(past))

    @classmethod
    def of(cls, module: nn.Module, *, mask_id: int | None = None, shift: int | None = None,
           max_length: int | None = None, pattern: AttentionPattern | None = None) -> "HuggingFaceModel":
        """Wrap a module in eval mode; of a compiled one, what was compiled. By default

        mask_id     is the config's mask_token_id; a causal model needs none
        shift       is 1 for a causal model (its row q predicts position q + 1), else 0; Dream's needs 1 too
        max_length  is the config's number of positions, or the shorter length of the table of them
        pattern     is what the module does by itself; another one, say BlockCausal(4), is asked of it by masks

        ValueError says what cannot be read, and what the module does otherwise than asked."""
        module = uncompiled(module)
        name, config = type(module).__name__, getattr(module, "config", None)
        _check_eval_mode(module)
        if read(config, "is_encoder_decoder"):
            raise ValueError(f"{name}: is an encoder with a decoder; must be one of the two alone")
        mask_id = read(config, "mask_token_id") if mask_id is None else mask_id
        probe = Probe.of(module, max_length=max_length, mask_id=mask_id)
        own = probe.own_pattern()
        if pattern is None:
            if isinstance(own, str):
                raise ValueError(f"{name}: cannot be called with tokens alone ({own}); give the pattern")
            pattern = own
        masks = probe.masks(pattern, own)
        num_tokens = probe.num_tokens(pattern, masks)
        is_causal = isinstance(pattern, Causal)
        if mask_id is None and not is_causal:
            raise ValueError(f"{name}: its config names no mask_token_id; give mask_id (its tokenizer's mask_token_id)")
        lengths = LengthProbe(probe, pattern, masks)
        return cls(probe.called, probe.shape, probe.max_length, num_tokens, pattern, masks, lengths.rows_change_rows,
                   lengths.storing(), int(is_causal) if shift is None else shift,
                   num_tokens if mask_id is None else mask_id)

    @property
    def module(self) -> nn.Module:
        return self.called.module

    @property
    def vocab_size(self) -> int:
        """The tokens, and the mask id where it is none of them."""
        return max(self.num_tokens, self.mask_id + 1)

    @property
    def device(self) -> torch.device:
        return self.shape.device

    @property
    def holds_logits(self) -> bool:
        return True

    def check(self, *, shows_mask: bool) -> None:
        """ValueError if the module is no longer what was wrapped, or has no token for masks that it is shown."""
        changed = [f"{name} from {value} to {now}" for (name, value), now
                   in zip(vars(self.shape).items(), vars(ForeignShape.of(self.module)).values(), strict=True)
                   if now != value]
        if changed:
            raise ValueError(f"{self.called.name}: has changed since it was wrapped ({', '.join(changed)}); wrap it "
                             "again")
        _check_eval_mode(self.module)
        if shows_mask and self.mask_id == self.num_tokens:
            raise ValueError(f"{self.called.name}: has no mask token to stand for a masked prompt, as guidance shows "
                             "it; give mask_id")

    def new_store(self, num_rows: int, length: int) -> KVStore:
        """ValueError with the reason if keys and values cannot be stored."""
        if isinstance(self.storing, str):
            raise ValueError(f"{self.called.name}: its keys and values cannot be stored, since {self.storing}; use "
                             "cache recompute")
        return self.shape.new_store(num_rows, length)

    def hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        refuse_if_batch_invariant(type(self.module).__name__, "a foreign module computes all rows in its own way")
        if self.apart:
            return self._hidden_apart(tokens_BS, plan)
        return self._hidden(tokens_BS, plan, store)

    def _hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        length = tokens_BS.shape[1] - 1
        tokens_BF, view = tokens_BS.gather(1, plan.feed_BF), plan.view(self.pattern, length)
        if self.mask_id == self.num_tokens:
            tokens_BF = tokens_BF.masked_fill(tokens_BF == self.mask_id, 0)
        if store is None or plan.context is None:
            told = self.masks.arguments(view)
        else:
            assert not isinstance(self.storing, str)
            told = self.storing.arguments(view, plan.feed_BF, store, plan.context)
        hidden_BQE = self.called.head_input(tokens_BF, told)
        index_BQ = plan.index(self.shift)
        if index_BQ is not None:
            hidden_BQE = hidden_BQE.gather(1, index_BQ[..., None].expand(-1, -1, hidden_BQE.shape[-1]))
        return hidden_BQE[:, : plan.query_BQ.shape[1]]

    def _hidden_apart(self, tokens_BS: Tensor, plan: Plan) -> Tensor:
        """The same for rows of each length by themselves; nothing is stored."""
        stop_B = torch.full_like(plan.feed_BF[:, 0], tokens_BS.shape[1] - 1) if plan.stop_B is None else plan.stop_B
        if isinstance(self.pattern, Causal):
            stop_B = torch.minimum(stop_B, plan.query_BQ.amax(1) + 1 - self.shift)
        parts = []
        for stop in stop_B.unique().tolist():
            row_B = (stop_B == stop).nonzero()[:, 0]
            feed_BF, query_BQ = plan.feed_BF[row_B], plan.query_BQ[row_B]
            alone = Plan(feed_BF[:, feed_BF[0] < stop], query_BQ.clamp(max=stop))
            parts.append((row_B, self._hidden(tokens_BS[row_B, : stop + 1], alone, None)))
        hidden_BQE = parts[0][1].new_zeros(len(stop_B), *parts[0][1].shape[1:])
        for row_B, part_BQE in parts:
            hidden_BQE[row_B] = part_BQE
        return hidden_BQE

    def logits(self, hidden_BQE: Tensor) -> Tensor:
        """Logits [B, Q, V] of hidden states, -inf for the mask id."""
        logits_BQV = self.called.head(hidden_BQE)
        if self.mask_id == self.num_tokens:
            return F.pad(logits_BQV, (0, 1), value=-torch.inf)
        logits_BQV[..., self.mask_id] = -torch.inf
        return logits_BQV

    def statistics(self, hidden_BQE: Tensor, request: StatisticsRequest) -> TokenStatistics:
        return token_statistics(self.logits(hidden_BQE), request)

    def forward_cost(self, num_fed: int, num_keys_seen: int, num_queried: int, num_stored_read: int) -> tuple[int, int]:
        """As for our Transformer. Of a mixture of experts all are counted, which is too much."""
        layers, head = self._num_weights
        shape, num_head_run = self.shape, head if num_queried else 0
        attention = 4 * shape.num_layers * shape.num_heads * shape.head_width * num_keys_seen
        stored = 2 * shape.num_layers * shape.num_kv_heads * shape.head_width * num_stored_read
        return (2 * layers * num_fed + 2 * head * num_queried + attention,
                (layers + num_head_run + stored) * shape.dtype.itemsize)

    @cached_property
    def _num_weights(self) -> tuple[int, int]:
        """Weights of the matrices of all layers, and of the head; tables that are looked up are left out."""
        tables = {id(module.weight) for module in self.module.modules() if isinstance(module, nn.Embedding)}
        heads = {id(weight): weight.numel() for weight in self.called.head.parameters() if weight.ndim > 1}
        layers = sum(weight.numel() for weight in self.module.parameters()
                     if weight.ndim > 1 and id(weight) not in tables | heads.keys())
        return layers, sum(heads.values())


def _check_eval_mode(module: nn.Module) -> None:
    """A bare matrix or table, such as a resized head, does the same in either mode."""
    if any(part.training for part in module.modules() if not isinstance(part, (nn.Linear, nn.Embedding))):
        raise ValueError(f"{type(module).__name__}: is in training mode; call its eval() first")
