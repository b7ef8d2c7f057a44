"""Extraction of one record: typed fields, stated in shuffled clauses, answered in a fixed order.

A clause is a cue (one of several words for the field), a filler word and a value; no two fields share values. The
prompt alone determines every answer token, so parallel decoding costs no quality here. Test prompts never occur in
training: a record is a test record if and only if the sum of its value indices is a multiple of seven.

    <start> was-born-in the 1984 | lives-in old Oslo | ...  ->  name city year job price colour
"""

from dataclasses import dataclass

import numpy as np

from ...kernels.checks import check_integer
from .base import PromptedProblems, PromptedTask

_HELD_OUT_MODULUS = 7


@dataclass(frozen=True)
class Extraction(PromptedTask):
    num_fields: int = 6
    values_per_field: int = 24
    cues_per_field: int = 3
    num_fillers: int = 8
    test_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_fields", "values_per_field", "cues_per_field", "num_fillers"):
            check_integer(name, getattr(self, name))
        check_integer("test_seed", self.test_seed, at_least=0)

    @property
    def vocab_size(self) -> int:
        """The start token, fillers, cues, values, the mask."""
        return 1 + self.num_fillers + self.num_fields * (self.cues_per_field + self.values_per_field) + 1

    def draw(self, rng: np.random.Generator, size: int, *, held_out: bool) -> PromptedProblems:
        value = np.empty((0, self.num_fields), np.int64)
        while len(value) < size:
            more = rng.integers(self.values_per_field, size=(4 * _HELD_OUT_MODULUS * size, self.num_fields))
            value = np.concatenate((value, more[(more.sum(1) % _HELD_OUT_MODULUS == 0) == held_out]))
        value = value[:size]
        field = np.arange(self.num_fields)
        first_cue = 1 + self.num_fillers
        first_value = first_cue + self.num_fields * self.cues_per_field
        answer = first_value + field * self.values_per_field + value
        cue = first_cue + field * self.cues_per_field + rng.integers(self.cues_per_field, size=value.shape)
        filler = 1 + rng.integers(self.num_fillers, size=value.shape)
        clauses = np.stack((cue, filler, answer), axis=2)
        order = rng.random(value.shape).argsort(1)
        shuffled = np.take_along_axis(clauses, order[:, :, None], axis=1).reshape(size, -1)
        return PromptedProblems(np.concatenate((np.zeros((size, 1), np.int64), shuffled), axis=1), answer)
