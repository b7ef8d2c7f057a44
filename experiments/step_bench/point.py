"""A point of the step benchmark: one step of one model at one context, with the parts of a real decode, and its
roofline bound."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ...decoders import BlockCausalCacheApart, Decoder, Greedy, GridBlocks, Request, Threshold, Unbounded, presets
from ...kernels.case import Cost
from ...kernels.checks import check_integer
from ...kernels.dispatch import Implementation
from ...models import BlockCausal, Causal, Head, Shape, TransformerConfig
from ...models.families import describe
from ...models.filling import without_memory
from ..harness.records import Json
from ..harness.roofline import H200, Card, floor

_TAU = 0.9  # Fast-dLLM's threshold
_TOKEN_SEED = 0


@dataclass(frozen=True)
class ModelShape:
    """The properties of a model that determine the time of a step, which does not depend on trained weights."""

    vocab_size: int
    shape: Shape

    def __post_init__(self) -> None:
        check_integer("vocab_size", self.vocab_size, at_least=2)


def published(config: Mapping[str, Any]) -> ModelShape:
    """The shape that `models.load` reads from these values of a config.json. ValueError as from there."""
    found = describe(dict(config), "config").config
    return ModelShape(found.vocab_size, found.shape)


@dataclass(frozen=True)
class StepPoint:
    """A step after `context` stored positions: of a block of `block` positions with a block-causal cache, or, if None,
    of one next token. Positions go up to `max_length`."""

    name: str
    model: ModelShape
    context: int
    block: int | None
    head_name: str
    head: Head
    kernels: str
    dtype: str
    max_length: int

    def __post_init__(self) -> None:
        check_integer("context", self.context)
        check_integer("block", self.num_positions)
        if self.context % self.num_positions:
            raise ValueError(f"block={self.block}: must divide context={self.context}")
        check_integer("max_length", self.max_length, at_least=self.length)
        if self.dtype not in ("bfloat16", "float16", "float32"):
            raise ValueError(f"dtype={self.dtype!r}: must be bfloat16, float16 or float32")
        Implementation.named(self.kernels)

    @property
    def label(self) -> str:
        """The row as text."""
        step = "autoregressive" if self.block is None else f"block of {self.block}"
        return f"{self.name}, context {self.context}, {step}, {self.head_name} head, {self.kernels}"

    @property
    def num_positions(self) -> int:
        """Positions fed and queried."""
        return 1 if self.block is None else self.block

    @property
    def length(self) -> int:
        """Positions of the canvas. An autoregressive step queries the position after the one it feeds."""
        return self.context + self.num_positions + (self.block is None)

    @property
    def window_index(self) -> int:
        """The window of the step. The first window of an autoregressive decode would feed the whole prompt."""
        return int(self.block is None)

    @property
    def mask_id(self) -> int:
        return self.model.vocab_size - 1

    @property
    def shift(self) -> int:
        return int(self.block is None)

    @property
    def weight_bytes(self) -> int:
        """The memory of the weights and tables."""
        transformer = without_memory(self.config, getattr(torch, self.dtype))
        return sum(tensor.nbytes for tensor in (*transformer.parameters(), *transformer.buffers()))

    @property
    def store_bytes(self) -> int:
        """The memory of the stored keys and values, with a spare position."""
        return (self.length + 1) * self.config.kv_bytes_per_position(getattr(torch, self.dtype).itemsize)

    @property
    def config(self) -> TransformerConfig:
        attention = Causal() if self.block is None else BlockCausal(self.block)
        return TransformerConfig(self.model.vocab_size, self.max_length, attention, self.model.shape)

    @property
    def decoder(self) -> Decoder:
        if self.block is None:
            return presets.autoregressive()
        return Decoder(GridBlocks(self.block), Unbounded(), Greedy(), Threshold(_TAU), BlockCausalCacheApart())

    def tokens(self) -> list[int]:
        """Random tokens for the whole canvas, none of them the mask."""
        generator = torch.Generator().manual_seed(_TOKEN_SEED)
        return torch.randint(self.mask_id, (self.length,), generator=generator).tolist()

    def request(self) -> Request:
        """The tokens, with masks at the queried positions."""
        known = self.length - self.num_positions
        return Request([*self.tokens()[:known], *[self.mask_id] * self.num_positions], start=self.context)

    def floors(self, num_distinct_experts: float | None = None, card: Card = H200) -> Json:
        """Roofline bounds on a card in milliseconds: of reading weights and stored keys and values once, and of the
        products. A mixture of experts reads `num_distinct_experts`, or, if None, as many as uniform routing would
        touch."""
        cost = self.cost(1, num_distinct_experts)
        memory, compute, both = (floor(part, self.dtype, card) for part in (
            Cost(cost.num_bytes), Cost(0, cost.num_flops), cost))
        return {"num_bytes": cost.num_bytes, "num_flops": cost.num_flops, "memory_floor_ms": memory.microseconds / 1e3,
                "compute_floor_ms": compute.microseconds / 1e3, "floor_ms": both.microseconds / 1e3,
                "bound": both.bound}

    def cost(self, batch: int, num_distinct_experts: float | None = None) -> Cost:
        """What a step of `batch` rows reads and multiplies at least."""
        fed, config = batch * self.num_positions, self.config
        num_bytes = config.forward_bytes(fed, batch * self.context, fed,
                                         bytes_per_element=getattr(torch, self.dtype).itemsize,
                                         num_distinct_experts=num_distinct_experts)
        return Cost(num_bytes, config.forward_flops(fed, fed * (self.context + self.num_positions), fed))

    def expected_experts(self) -> float | None:
        """Distinct experts per layer under uniform and independent routing; None without experts."""
        experts = self.model.shape.experts
        return None if experts is None else experts.expected_distinct(self.num_positions)
