"""A character n-gram model with Witten-Bell smoothing: a judge of text that is independent of both families.

    p(c | h) = (count(h c) + types(h) p(c | h')) / (count(h) + types(h)),    h' = h without its first character

down to a uniform distribution over the characters seen and one symbol for all others (Witten and Bell, 1991). Each line
is padded with start marks and one end mark.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_START, _END = "\x02", "\x03"


@dataclass(frozen=True)
class NgramJudge:
    """`counts` of every n-gram up to `order`; `totals` and `types` of each context: the number of characters, and of
    distinct characters, that follow it."""

    order: int
    counts: Counter[str]
    totals: Counter[str]
    types: Counter[str]
    num_characters: int

    @classmethod
    def fitted(cls, lines: Iterable[str], order: int = 8) -> "NgramJudge":
        counts: Counter[str] = Counter()
        for line in lines:
            text = _START * (order - 1) + line + _END
            for end in range(order, len(text) + 1):
                counts.update(text[end - length : end] for length in range(1, order + 1))
        totals: Counter[str] = Counter()
        types: Counter[str] = Counter()
        for gram, count in counts.items():
            totals[gram[:-1]] += count
            types[gram[:-1]] += 1
        return cls(order, counts, totals, types, types[""] + 1)

    def probability(self, context: str, character: str) -> float:
        """p(character | context), using the last order - 1 characters of the context."""
        p = 1 / self.num_characters
        for length in range(min(self.order, len(context) + 1)):
            history = context[len(context) - length :]
            seen = self.types[history]
            if seen == 0:
                break
            p = (self.counts[history + character] + seen * p) / (self.totals[history] + seen)
        return p

    def nats_per_char(self, lines: Sequence[str]) -> float:
        """Mean negative log-likelihood per character; the end of a line counts as a character."""
        nats, num = 0.0, 0
        for line in lines:
            text = _START * (self.order - 1) + line + _END
            for place in range(self.order - 1, len(text)):
                nats -= math.log(self.probability(text[place - self.order + 1 : place], text[place]))
                num += 1
        return nats / num
