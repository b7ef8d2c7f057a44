"""How many positions a step may commit."""

from .base import Quota, QuotaKind, Schedule, Times
from .drawn import Binomial, FirstHitting
from .fixed import Cosine, Dream, DreamUntruncated, Even, Linear, LinearRemainderLast
from .open_ended import Floor, Free, Unbounded

__all__ = [
    "Binomial",
    "Cosine",
    "Dream",
    "DreamUntruncated",
    "Even",
    "FirstHitting",
    "Floor",
    "Free",
    "Linear",
    "LinearRemainderLast",
    "Quota",
    "QuotaKind",
    "Schedule",
    "Times",
    "Unbounded",
]
