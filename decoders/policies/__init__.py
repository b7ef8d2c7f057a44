"""Commit policies, one a file."""

from .base import Edit, Policy, Situation
from .leftmost import Leftmost
from .low_entropy import LowEntropy
from .random_order import RandomOrder
from .threshold import Threshold
from .top_margin import TopMargin
from .top_probability import TopProbability

__all__ = [
    "Edit",
    "Leftmost",
    "LowEntropy",
    "Policy",
    "RandomOrder",
    "Situation",
    "Threshold",
    "TopMargin",
    "TopProbability",
]
