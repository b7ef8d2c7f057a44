"""A model of Hugging Face's transformers as a LanguageModel, by duck typing: transformers is not imported.

    h = input of the output embedding,    z = output embedding of h

What a config does not say, or says wrongly, is measured when the module is wrapped (`hf_probe`).
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.batch_invariance import refuse_if_batch_invariant
from ..kernels.checks import check_integer
from ..kernels.token_statistics import StatisticsRequest, TokenStatistics, token_statistics
from .adapter import ModelSpec, Plan
from .attention import AttentionPattern, Causal
from .hf_cache_probe import HFCacheProbe
from .hf_config import HFModelShape, read
from .hf_module import HFCacheInterface, HFMask, HFModule, uncompiled
from .hf_probe import HFProbe
from .kv_store import KVStore


@dataclass(frozen=True)
class HuggingFaceModel:
    """A causal or masked language model of transformers, or remote code with its conventions; made by `of`.

    logits_width is that of the module's logits. A causal model never sees the mask id, which may be the id after its
    last token. `hf_mask` is the mask form that the module obeys, `cache` the interface through which it reads stored
    keys and values, or the reason why it cannot.

    With `per_length`, rows of each length are computed by themselves, since a longer row would change a shorter one. A
    step then waits for the device; a causal model computes a row only up to its last queried position."""

    hf_module: HFModule
    shape: HFModelShape
    spec: ModelSpec
    logits_width: int
    hf_mask: HFMask
    per_length: bool
    cache: HFCacheInterface | str

    def __post_init__(self) -> None:
        may_be_past = isinstance(self.spec.pattern, Causal) and self.spec.shift
        check_integer("mask_id", self.spec.mask_id, at_least=0, at_most=self.logits_width - 1 + int(may_be_past))

    @classmethod
    def of(cls, module: nn.Module, *, mask_id: int | None = None, shift: int | None = None,
           max_length: int | None = None, pattern: AttentionPattern | None = None) -> "HuggingFaceModel":
        """Wrap a module in eval mode; a compiled module is unwrapped first. Defaults:

        mask_id     the config's mask_token_id; a causal model needs none
        shift       1 for a causal model (its row q predicts position q + 1), else 0; Dream needs 1 too
        max_length  the config's number of positions, or the length of the position table if that is shorter
        pattern     the module's own; another one, such as BlockCausal(4), is requested by masks

        ValueError says what the config lacks, or what the module does other than requested."""
        module = uncompiled(module)
        name, config = type(module).__name__, getattr(module, "config", None)
        _check_eval_mode(module)
        if read(config, "is_encoder_decoder"):
            raise ValueError(f"{name}: is an encoder-decoder; must be a single encoder or decoder")
        mask_id = read(config, "mask_token_id") if mask_id is None else mask_id
        probe = HFProbe.of(module, max_length=max_length, mask_id=mask_id)
        native = probe.native_pattern()
        if pattern is None:
            if isinstance(native, str):
                raise ValueError(f"{name}: cannot be called with tokens only ({native}); give the pattern")
            pattern = native
        hf_mask = probe.mask_for(pattern, native)
        logits_width, is_causal = probe.logits_width(pattern, hf_mask), isinstance(pattern, Causal)
        if mask_id is None and not is_causal:
            raise ValueError(f"{name}: its config has no mask_token_id; give mask_id (its tokenizer's mask_token_id)")
        mask_id = logits_width if mask_id is None else mask_id
        check_integer("mask_id", mask_id, at_least=0, at_most=logits_width)
        spec = ModelSpec(mask_id, int(is_causal) if shift is None else shift, max(logits_width, mask_id + 1),
                         probe.max_length, pattern, probe.shape.device, materializes_logits=True)
        caches = HFCacheProbe(probe, pattern, hf_mask)
        return cls(probe.hf_module, probe.shape, spec, logits_width, hf_mask, caches.depends_on_batch, caches.cache())

    @property
    def module(self) -> nn.Module:
        return self.hf_module.module

    @property
    def has_mask_token(self) -> bool:
        """Whether the mask id is one of the module's tokens."""
        return self.spec.mask_id < self.logits_width

    def check(self, *, shows_mask: bool) -> None:
        """ValueError if the module has changed since it was wrapped, or if it would see masks and has no mask token."""
        changed = [f"{name} from {value} to {now}" for (name, value), now
                   in zip(vars(self.shape).items(), vars(HFModelShape.of(self.module)).values(), strict=True)
                   if now != value]
        if changed:
            raise ValueError(f"{self.hf_module.name}: has changed since it was wrapped ({', '.join(changed)}); wrap it "
                             "again")
        _check_eval_mode(self.module)
        if shows_mask and not self.has_mask_token:
            raise ValueError(f"{self.hf_module.name}: has no mask token, which guidance needs to mask a prompt; give "
                             "mask_id")

    def new_store(self, num_rows: int, length: int) -> KVStore:
        """ValueError with the reason if keys and values cannot be stored."""
        if isinstance(self.cache, str):
            raise ValueError(f"{self.hf_module.name}: its keys and values cannot be stored: {self.cache}; use cache "
                             "recompute")
        return self.shape.new_store(num_rows, length)

    def hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        refuse_if_batch_invariant(self.hf_module.name, "a module of another library computes all rows together")
        if self.per_length:
            return self._hidden_per_length(tokens_BS, plan)
        return self._hidden(tokens_BS, plan, store)

    def _hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        length, mask_id = tokens_BS.shape[1] - 1, self.spec.mask_id
        tokens_BF, mask = tokens_BS.gather(1, plan.feed_BF), plan.attention_mask(self.spec.pattern, length)
        if not self.has_mask_token:
            tokens_BF = tokens_BF.masked_fill(tokens_BF == mask_id, 0)
        if store is None or plan.context is None:
            kwargs = self.hf_mask.kwargs(mask)
        else:
            assert not isinstance(self.cache, str)
            kwargs = self.cache.kwargs(mask, plan.feed_BF, store, plan.context)
        hidden_BQE = self.hf_module.head_input(tokens_BF, kwargs)
        index_BQ = plan.index(self.spec.shift)
        if index_BQ is not None:
            hidden_BQE = hidden_BQE.gather(1, index_BQ[..., None].expand(-1, -1, hidden_BQE.shape[-1]))
        return hidden_BQE[:, : plan.query_BQ.shape[1]]

    def _hidden_per_length(self, tokens_BS: Tensor, plan: Plan) -> Tensor:
        """As `_hidden`, for the rows of each length by themselves. Stores nothing."""
        stop_B = torch.full_like(plan.feed_BF[:, 0], tokens_BS.shape[1] - 1) if plan.stop_B is None else plan.stop_B
        if isinstance(self.spec.pattern, Causal):
            stop_B = torch.minimum(stop_B, plan.query_BQ.amax(1) + 1 - self.spec.shift)
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
        logits_BQV = self.hf_module.head(hidden_BQE)
        if not self.has_mask_token:
            return F.pad(logits_BQV, (0, 1), value=-torch.inf)
        logits_BQV[..., self.spec.mask_id] = -torch.inf
        return logits_BQV

    def statistics(self, hidden_BQE: Tensor, request: StatisticsRequest) -> TokenStatistics:
        return token_statistics(self.logits(hidden_BQE), request)

    def forward_cost(self, num_fed: int, num_keys_seen: int, num_queried: int, num_stored_read: int) -> tuple[int, int]:
        """As for our Transformer, except that all experts of a mixture count: an overestimate."""
        layers, head = self._num_weights
        shape, num_head_run = self.shape, head if num_queried else 0
        attention = 4 * shape.num_layers * shape.num_heads * shape.head_width * num_keys_seen
        stored = 2 * shape.num_layers * shape.num_kv_heads * shape.head_width * num_stored_read
        return (2 * layers * num_fed + 2 * head * num_queried + attention,
                (layers + num_head_run + stored) * shape.dtype.itemsize)

    @cached_property
    def _num_weights(self) -> tuple[int, int]:
        """The number of weights in the matrices of all layers and in those of the head, without embedding tables."""
        tables = {id(module.weight) for module in self.module.modules() if isinstance(module, nn.Embedding)}
        heads = {id(weight): weight.numel() for weight in self.hf_module.head.parameters() if weight.ndim > 1}
        layers = sum(weight.numel() for weight in self.module.parameters()
                     if weight.ndim > 1 and id(weight) not in tables | heads.keys())
        return layers, sum(heads.values())


def _check_eval_mode(module: nn.Module) -> None:
    """ValueError if a part is in training mode. A bare matrix or table, such as a resized head, is the same in both."""
    if any(part.training for part in module.modules() if not isinstance(part, (nn.Linear, nn.Embedding))):
        raise ValueError(f"{type(module).__name__}: is in training mode; call its eval() first")
