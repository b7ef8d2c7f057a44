"""Commit policies, one a file."""

from .base import Edit, Policy
from .entropy_bound import EntropyBound
from .entropy_sum import EntropySum
from .entropy_threshold import EntropyThreshold
from .factor import Factor
from .hierarchy import Hierarchy
from .klass import Klass
from .leftmost import Leftmost
from .low_entropy import LowEntropy
from .path_planning import PathPlanning
from .prophet import Prophet
from .random_order import RandomOrder
from .redecide import Redecide
from .relative_threshold import RelativeThreshold
from .remdm import ByConfidence, Capped, Rate, Remdm, Rescaled
from .remdm_loop import RemdmLoop
from .threshold import Threshold
from .token_editing import TokenEditing
from .top_margin import TopMargin
from .top_probability import TopProbability

__all__ = [
    "ByConfidence",
    "Capped",
    "Edit",
    "EntropyBound",
    "EntropySum",
    "EntropyThreshold",
    "Factor",
    "Hierarchy",
    "Klass",
    "Leftmost",
    "LowEntropy",
    "PathPlanning",
    "Policy",
    "Prophet",
    "RandomOrder",
    "Rate",
    "Redecide",
    "RelativeThreshold",
    "Remdm",
    "RemdmLoop",
    "Rescaled",
    "Threshold",
    "TokenEditing",
    "TopMargin",
    "TopProbability",
]
