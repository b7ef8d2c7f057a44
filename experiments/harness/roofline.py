"""The roofline bound: no kernel is faster than its bytes over the memory bandwidth, nor than its FLOPs over the peak
FLOP/s of its dtype."""

from collections.abc import Mapping
from dataclasses import dataclass

from ...kernels.case import Cost


@dataclass(frozen=True)
class Card:
    """A processor's sustained memory bandwidth (bytes/s) and FLOP/s by input dtype. `seconds_per_layer` is what a layer
    of a model takes besides, however little it reads and multiplies; 0: nothing."""

    name: str
    bytes_per_second: float
    flops_per_second: Mapping[str, float]
    seconds_per_layer: float = 0.0


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
