"""What token: one pass over the vocabulary at the queried positions, after which nobody else sees the vocabulary.

Whether a policy's confidence is that of the tempered distribution is a number: statistics_temperature 1 ranks by the
model's own distribution (LLaDA, Fast-dLLM), the sampling temperature by the tempered one (Dream, LLaDA2).
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..kernels.checks import check_integer, check_real
from ..kernels.token_statistics import Draw, Question, Statistic


class Sampler(Protocol):
    def question(self, wanted: frozenset[Statistic], draw_key: tuple[Tensor, Tensor, Tensor]) -> Question:
        """What to ask of the model's distributions: a token and the wanted statistics. The draw's key: the rows' seeds
        [B], the positions [B, Q] and the step (a scalar), int64."""
        ...


@dataclass(frozen=True)
class Greedy:
    """The most probable token; the lowest id on ties."""

    statistics_temperature: float = 1.0

    def __post_init__(self) -> None:
        check_real("statistics_temperature", self.statistics_temperature, above=0)

    def question(self, wanted: frozenset[Statistic], draw_key: tuple[Tensor, Tensor, Tensor]) -> Question:
        return Question(wanted, None, self.statistics_temperature)


@dataclass(frozen=True)
class Categorical:
    """A draw from softmax(logits / temperature), cut to the top_k most probable tokens or the top_p nucleus."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    statistics_temperature: float = 1.0

    def __post_init__(self) -> None:
        check_real("temperature", self.temperature, above=0)
        check_real("statistics_temperature", self.statistics_temperature, above=0)
        if self.top_k is not None:
            check_integer("top_k", self.top_k)
        if self.top_p is not None:
            check_real("top_p", self.top_p, above=0, at_most=1)

    def question(self, wanted: frozenset[Statistic], draw_key: tuple[Tensor, Tensor, Tensor]) -> Question:
        draw = Draw(self.temperature, *draw_key, top_k=self.top_k, top_p=self.top_p)
        return Question(wanted, draw, self.statistics_temperature)
