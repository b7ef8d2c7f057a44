"""The roofline bound: no kernel is faster than its bytes over the memory bandwidth, nor than its FLOPs over the peak
FLOP/s of its dtype. A forward takes what its layers take besides:

    time = layers x (seconds_per_layer + rows x seconds_per_row + positions x width x seconds_per_value)
           + max(bytes / bandwidth, FLOPs / FLOP/s)

where bytes that fit the cache count as none: the next forward finds them there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ...kernels.case import Cost
from ...models import Shape


@dataclass(frozen=True)
class Card:
    """A processor's sustained memory bandwidth (bytes/s) and FLOP/s by input dtype. `seconds_per_layer` is what a layer
    of a model takes besides, however little it reads and multiplies, `seconds_per_row` what it takes for each row of a
    batch, and `seconds_per_value` for each number of its fed positions; 0: nothing. `cache_bytes`: what stays in its
    caches between two forwards."""

    name: str
    bytes_per_second: float
    flops_per_second: Mapping[str, float]
    seconds_per_layer: float = 0.0
    seconds_per_row: float = 0.0
    seconds_per_value: float = 0.0
    cache_bytes: int = 0

    def forward_seconds(self, shape: Shape, num_rows: int, num_fed: int, cost: Cost, dtype_name: str) -> float:
        """The predicted time of a forward of this cost that feeds so many positions, of so many rows, to a model."""
        besides = (self.seconds_per_layer + num_rows * self.seconds_per_row
                   + num_fed * shape.width * self.seconds_per_value)
        if cost.num_bytes <= self.cache_bytes:
            cost = Cost(0, cost.num_flops)
        return shape.num_layers * besides + floor(cost, dtype_name, self).microseconds / 1e6


# Bandwidth and 16-bit FLOP/s as tuned kernels reach them; float32 (no tensor cores) from the data sheet.
H200 = Card("H200", 4.3e12, {"bfloat16": 790e12, "float16": 790e12, "float32": 67e12})
# From data sheets (SXM, dense); tuned kernels reach some 80 to 90 % of them.
H100 = Card("H100", 3.35e12, {"bfloat16": 989e12, "float16": 989e12, "float32": 67e12})
A100 = Card("A100", 2.039e12, {"bfloat16": 312e12, "float16": 312e12, "float32": 19.5e12})
CARDS = {card.name: card for card in (H200, H100, A100)}


@dataclass(frozen=True)
class Floor:
    """The least time in microseconds, and its bound: memory or compute."""

    microseconds: float
    bound: str


def floor(cost: Cost, dtype_name: str, card: Card = H200) -> Floor:
    """The roofline bound of a cost with inputs of a dtype."""
    memory = 1e6 * cost.num_bytes / card.bytes_per_second
    compute = 1e6 * cost.num_flops / card.flops_per_second[dtype_name]
    return Floor(memory, "memory") if memory >= compute else Floor(compute, "compute")
