"""Confidence intervals of shares, paired differences and means."""

import math
from collections.abc import Sequence

import numpy as np

Z_95 = 1.959964


def wilson(num_right: int, num_items: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share (Wilson, 1927)."""
    if num_items < 1:
        raise ValueError(f"num_items={num_items}: must be at least 1")
    share, z2 = num_right / num_items, Z_95**2
    centre = (share + z2 / (2 * num_items)) / (1 + z2 / num_items)
    half = Z_95 / (1 + z2 / num_items) * math.sqrt(share * (1 - share) / num_items + z2 / (4 * num_items**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(a: Sequence[bool], b: Sequence[bool]) -> tuple[float, float]:
    """Mean of a - b over the same items, and the half-width of its 95 % interval. With few disagreements the normal
    interval would shrink to zero, so two are added, one in each direction (Agresti and Min, 2005)."""
    if len(a) != len(b) or not a:
        raise ValueError(f"{len(a)} and {len(b)} items: must be the same items, at least one")
    difference = np.subtract(np.asarray(a, float), np.asarray(b, float))
    padded = np.append(difference, (1.0, -1.0))
    return float(difference.mean()), float(Z_95 * padded.std() / math.sqrt(len(padded)))


# Student's t for a two-sided 95 % interval, by degrees of freedom.
_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean of one value per seed, and the half-width of its 95 % interval: by Student's t up to ten values, normal
    above, None for one."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    t = _T_95[len(values) - 2] if len(values) <= len(_T_95) + 1 else Z_95
    return mean, float(t * np.std(values, ddof=1) / math.sqrt(len(values)))
