"""What is recomputed at a step, and what is read from a store."""

from .approximate import Delayed, Dual, Prefix, Vicinity
from .base import Cache
from .exact import Append, BlockCausalCache, BlockCausalCacheApart, Recompute

__all__ = [
    "Append",
    "BlockCausalCache",
    "BlockCausalCacheApart",
    "Cache",
    "Delayed",
    "Dual",
    "Prefix",
    "Recompute",
    "Vicinity",
]
