"""The physical floor: no kernel is faster than its bytes over the memory's bandwidth, nor than its products over the
peak of the units that run them."""

from dataclasses import dataclass

from ...kernels.case import Cost


@dataclass(frozen=True)
class Card:
    """What a GPU sustains: bytes a second from memory, and floating-point operations a second by input type."""

    name: str
    bytes_per_second: float
    flops_per_second: dict[str, float]


# Bandwidth and 16-bit products as well-tuned programs reach them; float32 without tensor cores is the data sheet's.
H200 = Card("H200", 4.3e12, {"bfloat16": 790e12, "float16": 790e12, "float32": 67e12})


@dataclass(frozen=True)
class Floor:
    """The least time in microseconds, and what sets it."""

    microseconds: float
    bound: str


def floor(cost: Cost, dtype_name: str, card: Card = H200) -> Floor:
    """The floor of a piece of work with inputs of a type."""
    memory = 1e6 * cost.num_bytes / card.bytes_per_second
    compute = 1e6 * cost.num_flops / card.flops_per_second[dtype_name]
    return Floor(memory, "memory") if memory >= compute else Floor(compute, "compute")
