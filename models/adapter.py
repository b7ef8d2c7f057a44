"""What a decoder asks of a model, and how a Transformer answers.

Row q of an answer is always the distribution of the token AT position q. A model trained to predict the next token
reads it one position earlier; that shift lives here and nowhere else.
"""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..kernels.batch_invariance import by_position, is_batch_invariant
from ..kernels.checks import integer_field
from ..kernels.token_statistics import Question, TokenStatistics
from .attention import AttentionPattern, Bidirectional, View
from .config import TransformerConfig
from .heads import Head, SeparateHead, statistics_by_position
from .kv_store import KVStore
from .transformer import Transformer


@dataclass(frozen=True)
class Plan:
    """One forward: absolute positions fed [B, F], int64 and ascending in each row, and those whose answers are read
    [B, Q], in any order (None: those fed, in theirs); the canvas length L stands for "no position" and follows the
    others. stop_B is where each row ends, None where all end at L and nothing fed stands for "no position".

    context None: fed positions see one another and nothing is stored. Otherwise their keys and values are written to
    the store, whose first `context` slots are read; `sees_all` promises that the model's pattern lets every fed
    position see all of them, so that no mask is needed."""

    feed_BF: Tensor
    reads_BQ: Tensor | None = None
    context: int | None = None
    stop_B: Tensor | None = None
    sees_all: bool = False

    @property
    def query_BQ(self) -> Tensor:
        """The positions whose answers are read, int64 [B, Q]."""
        return self.feed_BF if self.reads_BQ is None else self.reads_BQ

    def view(self, pattern: AttentionPattern, length: int) -> View:
        """What the fed positions see, of one another or of the store's first `context` slots, on a canvas of `length`
        positions."""
        end = None if self.stop_B is None else length
        if self.context is None:
            return View(pattern, self.feed_BF, self.feed_BF, end)
        key_1C = torch.arange(self.context, device=self.feed_BF.device)[None]
        if self.sees_all:
            return View(Bidirectional(), self.feed_BF, key_1C)
        if self.stop_B is None or end is None:
            return View(pattern, self.feed_BF, key_1C)
        return View(pattern, self.feed_BF, torch.where(key_1C < self.stop_B[:, None], key_1C, end), end)

    def index(self, shift: int) -> Tensor | None:
        """Where among the fed positions the answers are read, int64 [B, Q]; None: of the first Q, each at its
        place."""
        query_BQ, num_fed = self.query_BQ, self.feed_BF.shape[1]
        if num_fed * query_BQ.shape[1] > 1 and (shift or self.reads_BQ is not None):
            return torch.searchsorted(self.feed_BF, query_BQ - shift).clamp_(max=num_fed - 1)
        return None


class LanguageModel(Protocol):
    """Anything that can be decoded. `pattern` is what positions see; `shift` is 1 for a next-token model."""

    @property
    def mask_id(self) -> int: ...
    @property
    def shift(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def max_length(self) -> int: ...
    @property
    def pattern(self) -> AttentionPattern: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def holds_logits(self) -> bool:
        """Whether a question that needs all logits of a position at once can be answered."""
        ...

    def new_store(self, num_rows: int, length: int) -> KVStore:
        """An empty store for canvases of `length` positions."""
        ...

    def hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        """Hidden states at the queried positions, [B, Q, E]. tokens_BS is the canvas and a spare column (S = L + 1)."""
        ...

    def statistics(self, hidden_BQE: Tensor, question: Question) -> TokenStatistics:
        """The answer to a question about the distributions at the queried positions, in which the mask id has no
        part."""
        ...

    def forward_cost(self, num_fed: int, num_keys_seen: int, num_queried: int, num_stored_read: int) -> tuple[int, int]:
        """FLOPs of a forward, and the bytes it must at least read. Keys are counted a query, masked ones included;
        `num_stored_read` counts the positions read from a store."""
        ...


@runtime_checkable
class ChecksItself(Protocol):
    """A model of code that is not ours, which may change between two decodes, or may not serve all of them."""

    def check(self, *, shows_mask: bool) -> None:
        """Called where a decode begins; `shows_mask` says that masks stand where a causal model sees them. ValueError
        if the model cannot be decoded so, or not any more."""
        ...


@dataclass(frozen=True)
class DecodableTransformer:
    """A Transformer as a LanguageModel. mask_id is the token that stands for "not decided yet"; with shift 0 row q
    predicts position q, with shift 1 position q + 1."""

    transformer: Transformer
    mask_id: int
    shift: int = 0
    head: Head = field(default_factory=SeparateHead)

    def __post_init__(self) -> None:
        integer_field(self, "mask_id", at_least=0, at_most=self.vocab_size - 1)
        integer_field(self, "shift", at_least=0, at_most=1)

    @property
    def config(self) -> TransformerConfig:
        return self.transformer.config

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def max_length(self) -> int:
        return self.config.max_length

    @property
    def pattern(self) -> AttentionPattern:
        return self.config.attention

    @property
    def device(self) -> torch.device:
        return self.transformer.head.weight.device

    @property
    def holds_logits(self) -> bool:
        return self.head.holds_logits

    def new_store(self, num_rows: int, length: int) -> KVStore:
        shape = self.config.shape
        return KVStore.empty(num_layers=shape.num_layers, num_rows=num_rows, length=length,
                             num_kv_heads=shape.num_kv_heads, head_width=shape.head_width,
                             like=self.transformer.head.weight)

    def hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        feed_BF, view = plan.feed_BF, plan.view(self.pattern, tokens_BS.shape[1] - 1)
        write = None if store is None or plan.context is None else store.write(feed_BF, plan.context)
        hidden_BFE = self.transformer.hidden(tokens_BS.gather(1, feed_BF), feed_BF, view, write, plan.index(self.shift))
        return hidden_BFE[:, : plan.query_BQ.shape[1]]

    def statistics(self, hidden_BQE: Tensor, question: Question) -> TokenStatistics:
        arguments = hidden_BQE, self.transformer.head.weight, self.mask_id, question
        if is_batch_invariant():
            return statistics_by_position(self.head, *arguments)
        return self.head.statistics(*arguments)

    def logits(self, hidden_BQE: Tensor) -> Tensor:
        """Logits [B, Q, V] of hidden states."""
        return by_position(self.transformer.head, hidden_BQE)

    def forward_cost(self, num_fed: int, num_keys_seen: int, num_queried: int, num_stored_read: int) -> tuple[int, int]:
        size = self.transformer.head.weight.element_size()
        return (self.config.forward_flops(num_fed, num_keys_seen, num_queried),
                self.config.forward_bytes(num_fed, num_stored_read, num_queried, bytes_per_element=size))
