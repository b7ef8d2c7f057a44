"""The interface between decoders and models, and its implementation for our Transformer.

Row q of a model's output is always the distribution of the token AT position q. A model trained to predict the next
token computes it one position earlier. That shift is applied here and nowhere else.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..kernels.batch_invariance import by_position, is_batch_invariant
from ..kernels.checks import integer_field
from ..kernels.token_statistics import StatisticsRequest, TokenStatistics
from .attention import AttentionMask, AttentionPattern, Bidirectional
from .config import TransformerConfig
from .heads import Head, SeparateHead, statistics_by_position
from .kv_store import KVStore, store_of_heads
from .packing import PackedBeside, Packing
from .transformer import Transformer


@dataclass(frozen=True)
class Plan:
    """One forward: absolute positions fed [B, F], int64 and ascending in each row, and those whose answers are read
    [B, Q], in any order (None: those fed, in theirs); the canvas length L stands for "no position" and follows the
    others. stop_B is where each row ends, None where all end at L and nothing fed stands for "no position".

    context None: the fed positions see one another and nothing is stored. Otherwise their keys and values are written
    to the store, and the store's first `context` slots are read, and `spare` further ones that no fed position sees.
    `no_mask` promises that the model's pattern lets every fed position see all `context` slots."""

    feed_BF: Tensor
    reads_BQ: Tensor | None = None
    context: int | None = None
    stop_B: Tensor | None = None
    no_mask: bool = False
    spare: int = 0

    @property
    def slots(self) -> int | None:
        """Number of the store's slots that are read."""
        return None if self.context is None else self.context + self.spare

    @property
    def query_BQ(self) -> Tensor:
        """The positions whose answers are read, int64 [B, Q]."""
        return self.feed_BF if self.reads_BQ is None else self.reads_BQ

    def attention_mask(self, pattern: AttentionPattern, length: int) -> AttentionMask:
        """What the fed positions see, of one another or of the slots that are read, on a canvas of `length`
        positions."""
        end = None if self.stop_B is None else length
        if self.slots is None:
            return AttentionMask(pattern, self.feed_BF, self.feed_BF, end)
        key_1C = torch.arange(self.slots, device=self.feed_BF.device)[None]
        if self.no_mask:
            return AttentionMask(Bidirectional(), self.feed_BF, key_1C)
        if self.stop_B is None or end is None:
            return AttentionMask(pattern, self.feed_BF, key_1C)
        return AttentionMask(pattern, self.feed_BF, torch.where(key_1C < self.stop_B[:, None], key_1C, end), end)

    def index(self, shift: int) -> Tensor | None:
        """Where among the fed positions the answers are read, int64 [B, Q]; None: of the first Q, each at its
        place."""
        query_BQ, num_fed = self.query_BQ, self.feed_BF.shape[1]
        if num_fed * query_BQ.shape[1] > 1 and (shift or self.reads_BQ is not None):
            return torch.searchsorted(self.feed_BF, query_BQ - shift).clamp_(max=num_fed - 1)
        return None


@dataclass(frozen=True)
class ModelSpec:
    """The constants of a model. mask_id is the token of masked positions, vocab_size where the model has none. With
    shift 0, row q of a forward predicts position q; with shift 1, as in a next-token model, position q + 1.
    `materializes_logits` says whether all logits of a position exist at once, as some statistics need;
    `couples_positions` whether a position's answer depends on which others are queried, not on what they hold alone."""

    mask_id: int
    shift: int
    vocab_size: int
    max_length: int
    pattern: AttentionPattern
    device: torch.device
    materializes_logits: bool
    couples_positions: bool = False

    def __post_init__(self) -> None:
        integer_field(self, "vocab_size", at_least=2)
        integer_field(self, "max_length")
        integer_field(self, "mask_id", at_least=0, at_most=self.vocab_size)
        integer_field(self, "shift", at_least=0, at_most=1)


class LanguageModel(Protocol):
    """Anything that can be decoded."""

    @property
    def spec(self) -> ModelSpec: ...

    def new_store(self, num_rows: int, length: int) -> KVStore:
        """An empty store for canvases of `length` positions."""
        ...

    def hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        """Hidden states at the queried positions, [B, Q, E]. tokens_BS is the canvas and a spare column (S = L + 1)."""
        ...

    def statistics(self, hidden_BQE: Tensor, request: StatisticsRequest) -> TokenStatistics:
        """What is wanted of the distributions at the queried positions, in which the mask id has no part."""
        ...

    def forward_cost(self, num_fed: int, num_keys_seen: int, num_queried: int, num_stored_read: int) -> tuple[int, int]:
        """FLOPs of a forward, and the bytes that it must at least read. num_keys_seen sums over queries, masked keys
        included; num_stored_read counts the positions read from a store."""
        ...


@runtime_checkable
class ChecksItself(Protocol):
    """A model of external code, which may change between decodes or may not support all of them."""

    def check(self, *, shows_mask: bool) -> None:
        """Called when a decode begins. `shows_mask`: a causal model will see masks. ValueError if the model cannot be
        decoded so, or has changed."""
        ...


@runtime_checkable
class Replayable(Protocol):
    """A model whose forwards do the same to tensors of the same shapes, whatever their values, and keep nothing."""

    def weights_version(self) -> Hashable:
        """What tells weights that have changed, or lie elsewhere, from those of before."""
        ...


@dataclass(frozen=True)
class DecodableTransformer:
    """A Transformer as a LanguageModel. mask_id and shift are those of its ModelSpec; a mask_id of vocab_size, one more
    than its last token, is that of a model without a mask token. On a CPU large weights are packed for oneDNN, by
    default as a second copy."""

    transformer: Transformer
    mask_id: int
    shift: int = 0
    head: Head = field(default_factory=SeparateHead)
    packing: Packing = field(default_factory=PackedBeside)
    _spec: ModelSpec = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        config = self.config
        object.__setattr__(self, "_spec", ModelSpec(
            self.mask_id, self.shift, config.vocab_size, config.max_length, config.attention,
            self.transformer.head.weight.device, self.head.materializes_logits, self.transformer.couples_positions))
        self.packing.pack(self.transformer)

    @property
    def spec(self) -> ModelSpec:
        device = self.transformer.head.weight.device
        return self._spec if self._spec.device == device else replace(self._spec, device=device)

    @property
    def config(self) -> TransformerConfig:
        return self.transformer.config

    @property
    def has_mask_token(self) -> bool:
        """Whether the mask id is one of the model's tokens."""
        return self.mask_id < self.config.vocab_size

    def check(self, *, shows_mask: bool) -> None:
        """ValueError if the model would see masks and has no mask token, or if it denoises."""
        if self.config.shape.denoiser:
            raise ValueError("a model that denoises a canvas of random tokens cannot be decoded yet: there is no "
                             "decoder that renoises tokens uniformly, conditions a step on the logits of the last and "
                             "encodes a finished canvas causally")
        if shows_mask and not self.has_mask_token:
            raise ValueError(f"mask_id={self.mask_id}: the model has no mask token, which guidance needs to mask a "
                             "prompt; give that of one of its tokens")

    def new_store(self, num_rows: int, length: int) -> KVStore:
        heads_N = [(heads.num_kv_heads, heads.width) for heads in self.config.shape.all_heads]
        return store_of_heads(heads_N, num_rows=num_rows, length=length, like=self.transformer.norm.weight)

    def weights_version(self) -> Hashable:
        return self.transformer.weights_version()

    def hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        feed_BF, length, window = plan.feed_BF, tokens_BS.shape[1] - 1, self.config.shape.window
        mask = plan.attention_mask(self.config.attention, length)
        window_mask = None
        if window is not None:  # which a mask that lets every position be seen does not know of
            window_mask = replace(plan, no_mask=False).attention_mask(self.config.attention, length).within(window)
        write = None if store is None or plan.slots is None else store.write(feed_BF, plan.slots)
        index_BQ = plan.index(self._spec.shift)
        tokens_BF = tokens_BS.gather(1, feed_BF)
        if not self.has_mask_token:
            tokens_BF = tokens_BF.masked_fill(tokens_BF == self.mask_id, 0)
        hidden_BFE = self.transformer.hidden(tokens_BF, feed_BF, mask, write, index_BQ, window_mask)
        return hidden_BFE[:, : plan.query_BQ.shape[1]]

    def statistics(self, hidden_BQE: Tensor, request: StatisticsRequest) -> TokenStatistics:
        banned_id = self.mask_id if self.has_mask_token else None
        arguments = hidden_BQE, self.transformer.head, banned_id, request
        if is_batch_invariant():
            return statistics_by_position(self.head, *arguments)
        return self.head.statistics(*arguments)

    def logits(self, hidden_BQE: Tensor) -> Tensor:
        """Logits [B, Q, V] of hidden states."""
        return by_position(self.transformer.head, hidden_BQE)

    def forward_cost(self, num_fed: int, num_keys_seen: int, num_queried: int, num_stored_read: int) -> tuple[int, int]:
        size = self.transformer.norm.weight.element_size()
        num_bytes = self.config.forward_bytes(num_fed, num_stored_read, num_queried, bytes_per_element=size)
        return (self.config.forward_flops(num_fed, num_keys_seen, num_queried),
                num_bytes - self.transformer.saved_bytes(with_head=num_queried > 0))
