"""Caches: what a step recomputes, and what it reads from the KV cache."""

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
