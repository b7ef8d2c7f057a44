"""Addition of two numbers, most significant digit first: the answer's first digit may depend on a carry from its last.

About half of the problems have a long carry chain: at `chain_digits` adjacent positions the operands' digits sum to
nine, and at the next lower position to ten or more. Test operands never occur in training: a pair is a test pair if and
only if (31 a + b) mod 97 is 0.

    12345678+87654321=099999999
"""

from dataclasses import dataclass

import numpy as np

from ...kernels.checks import check_integer
from .base import PromptedProblems, PromptedTask

PLUS, EQUALS, MASK = 10, 11, 12
_HELD_OUT_MODULUS = 97


@dataclass(frozen=True)
class Addition(PromptedTask):
    num_digits: int = 8
    chain_digits: int = 5
    test_seed: int = 0

    def __post_init__(self) -> None:
        check_integer("num_digits", self.num_digits, at_least=2)
        check_integer("test_seed", self.test_seed, at_least=0)
        check_integer("chain_digits", self.chain_digits)
        if self.chain_digits >= self.num_digits:
            raise ValueError(f"chain_digits={self.chain_digits}: must be below num_digits={self.num_digits}")

    @property
    def vocab_size(self) -> int:
        return MASK + 1

    def draw(self, rng: np.random.Generator, size: int, *, held_out: bool) -> PromptedProblems:
        a = np.empty((0, self.num_digits), np.int64)
        b = a.copy()
        # One pair in 97 is a test pair, so a test set takes about 100 times as many draws.
        batch = 4 * size * (_HELD_OUT_MODULUS if held_out else 1)
        while len(a) < size:
            more_a, more_b = self._operands(rng, batch)
            keep = ((31 * self._value(more_a) + self._value(more_b)) % _HELD_OUT_MODULUS == 0) == held_out
            a, b = np.concatenate((a, more_a[keep])), np.concatenate((b, more_b[keep]))
        a, b = a[:size], b[:size]
        total = self._value(a) + self._value(b)
        places = 10 ** np.arange(self.num_digits, -1, -1)
        sign = np.ones((size, 1), np.int64)
        return PromptedProblems(np.concatenate((a, sign * PLUS, b, sign * EQUALS), axis=1),
                                total[:, None] // places % 10)

    def _operands(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        a = rng.integers(10, size=(size, self.num_digits))
        b = rng.integers(10, size=(size, self.num_digits))
        # The `chain_digits` digit pairs from `first` on sum to nine each, the next pair to ten or more.
        first = rng.integers(self.num_digits - self.chain_digits, size=(size, 1))
        place = np.arange(self.num_digits)
        has_chain = np.arange(size)[:, None] % 2 == 0
        in_chain = has_chain & (place >= first) & (place < first + self.chain_digits)
        starts_carry = has_chain & (place == first + self.chain_digits)
        b = np.where(in_chain, 9 - a, b)
        a = np.where(starts_carry, np.maximum(a, 1), a)
        b = np.where(starts_carry, 10 - a + rng.integers(np.maximum(a, 1)), b)
        return a, b

    def _value(self, digits: np.ndarray) -> np.ndarray:
        return digits @ 10 ** np.arange(self.num_digits - 1, -1, -1)
