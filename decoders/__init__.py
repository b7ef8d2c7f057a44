"""One decoding loop and its interchangeable parts."""

from .caches import Append, BlockCausalCache, Cache, Recompute
from .canvas import Canvas, Request
from .decoder import Completion, Decoder, Decoding, Step
from .policies import (
    Edit,
    Leftmost,
    LowEntropy,
    Policy,
    RandomOrder,
    Situation,
    Threshold,
    TopMargin,
    TopProbability,
)
from .samplers import Categorical, Greedy, Sampler
from .schedules import Cosine, Linear, Quota, Schedule, Unbounded
from .windows import Blocks, GridBlocks, Whole, Windows

__all__ = [
    "Append",
    "BlockCausalCache",
    "Blocks",
    "Cache",
    "Canvas",
    "Categorical",
    "Completion",
    "Cosine",
    "Decoder",
    "Decoding",
    "Edit",
    "Greedy",
    "GridBlocks",
    "Leftmost",
    "Linear",
    "LowEntropy",
    "Policy",
    "Quota",
    "RandomOrder",
    "Recompute",
    "Request",
    "Sampler",
    "Schedule",
    "Situation",
    "Step",
    "Threshold",
    "TopMargin",
    "TopProbability",
    "Unbounded",
    "Whole",
    "Windows",
]
