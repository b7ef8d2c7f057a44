"""Two timings of the same rounds compared: the ratio of each round, its median, and an interval of it.

    P(x_(k) <= m <= x_(n+1-k)) = 1 - 2 P(B <= k - 1),   B ~ Binomial(n, 1/2),   for the median m of n ratios x

The interval by order statistics (Thompson, 1936) assumes no distribution, but rounds that do not depend on one another;
a neighbour on the machine that stays for many rounds makes it too short.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

LEAST_ROUNDS = 6
"""With fewer no interval covers 95 %."""


@dataclass(frozen=True)
class PairedRatio:
    """The median of the rounds' ratios, and the interval that covers the true one in 95 % of all runs or more."""

    median: float
    low: float
    high: float

    @property
    def is_different(self) -> bool:
        """Whether the interval leaves 1 out."""
        return not self.low <= 1 <= self.high


def paired_ratio(times: Sequence[float], base: Sequence[float]) -> PairedRatio:
    """times / base, round by round. ValueError for fewer than six rounds, or where the numbers of rounds differ."""
    if len(times) != len(base) or len(times) < LEAST_ROUNDS:
        raise ValueError(f"{len(times)} and {len(base)} rounds: must be the same, {LEAST_ROUNDS} at least")
    return median_ratio([one / other for one, other in zip(times, base, strict=True)])


def median_ratio(ratios: Sequence[float]) -> PairedRatio:
    """Of ratios that do not depend on one another, six at least."""
    ordered = sorted(ratios)
    place = _place(len(ordered))
    return PairedRatio(median(ordered), ordered[place], ordered[-1 - place])


def _place(num_rounds: int) -> int:
    """How many ratios the interval leaves out at each end."""
    place, below = 0, 1
    while 2 * (below + math.comb(num_rounds, place + 1)) <= 0.05 * 2**num_rounds:
        place += 1
        below += math.comb(num_rounds, place)
    return place


def interleaved(samplers: Sequence[Callable[[], float]], num_rounds: int, seconds: float = math.inf
                ) -> list[list[float]]:
    """The samples of each, one a round; every other round goes backwards, so that a drift costs all alike. After so
    many seconds no round begins but the first two."""
    ends = time.monotonic() + seconds
    found: list[list[float]] = [[] for _ in samplers]
    order = list(enumerate(samplers))
    for number in range(num_rounds):
        if number >= 2 and time.monotonic() >= ends:
            break
        for place, sample in order[:: -1 if number % 2 else 1]:
            found[place].append(sample())
    return found
