"""What is recomputed at a step, and what is kept."""

from .approximate import Delayed, Dual, Prefix, Vicinity
from .base import Cache, Moment
from .exact import Append, BlockCausalCache, BlockCausalCacheApart, Recompute

__all__ = [
    "Append",
    "BlockCausalCache",
    "BlockCausalCacheApart",
    "Cache",
    "Delayed",
    "Dual",
    "Moment",
    "Prefix",
    "Recompute",
    "Vicinity",
]
