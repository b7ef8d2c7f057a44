"""The roofline bound: no kernel is faster than its bytes over the memory bandwidth, nor than its FLOPs over the peak
FLOP/s of its dtype. A step of a decode takes what it and its layers take besides:

    time = seconds_per_step + max(bytes / bandwidth, FLOPs / FLOP/s)
           + layers x (seconds_per_layer + width x (rows x seconds_per_row_value + positions x seconds_per_value))

where bytes that fit the cache count as none: the next forward finds them there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ...kernels.case import Cost
from ...models import Shape


@dataclass(frozen=True)
class Card:
    """A processor's sustained memory bandwidth (bytes/s) and FLOP/s by input dtype. `seconds_per_step` and
    `seconds_per_layer` are what a step and each of its layers take besides, however little is read and multiplied; a
    layer also takes `seconds_per_row_value` for each row of a batch and `seconds_per_value` for each fed position,
    times its width. 0: nothing. `cache_bytes`: what stays in its caches between two forwards."""

    name: str
    bytes_per_second: float
    flops_per_second: Mapping[str, float]
    seconds_per_step: float = 0.0
    seconds_per_layer: float = 0.0
    seconds_per_row_value: float = 0.0
    seconds_per_value: float = 0.0
    cache_bytes: int = 0

    def step_seconds(self, shape: Shape, num_rows: int, num_fed: int, cost: Cost, dtype_name: str) -> float:
        """The predicted time of a step whose forward has this cost and feeds so many positions, of so many rows."""
        per_width = num_rows * self.seconds_per_row_value + num_fed * self.seconds_per_value
        besides = self.seconds_per_layer + shape.width * per_width
        if cost.num_bytes <= self.cache_bytes:
            cost = Cost(0, cost.num_flops)
        least = floor(cost, dtype_name, self).microseconds / 1e6
        return self.seconds_per_step + least + shape.num_layers * besides


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
