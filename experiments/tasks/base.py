"""Tasks (problems with an exact checker) and formats (their token rows for each family)."""

from abc import ABC, abstractmethod
from collections.abc import Sized
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

_CHUNK = 128


@dataclass(frozen=True)
class Encoded:
    """Solved problems as token rows: `tokens` (int64 [n, L]), the `target` positions of the loss (bool [n, L]), and
    `start`, the first position of the completion. Targets are decoded; so are `ungraded` positions (bool [n, L]), so
    that the length of the answer is not leaked."""

    tokens: np.ndarray
    target: np.ndarray
    start: int
    ungraded: np.ndarray | None = None

    @property
    def decoded(self) -> np.ndarray:
        """The positions that a decoder gets masked, bool [n, L]."""
        return self.target if self.ungraded is None else self.target | self.ungraded


class Task(Protocol):
    """Token ids run from 0 to vocab_size - 1; the last is the mask."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def end_id(self) -> int | None:
        """The token that ends an answer; None if all answers have one length."""
        ...

    def training_problems(self, rng: np.random.Generator, size: int) -> Any: ...
    def test_problems(self, num: int) -> Any: ...
    def grade(self, problems: Any, answer: np.ndarray) -> np.ndarray:
        """Whether each answer [n, A] is right: bool [n]."""
        ...

    def count_answer_tokens(self, problems: Any, answer: np.ndarray) -> int:
        """Answer tokens up to and including the end token, without those given in the problem. Tokens per second counts
        only these for both families, even if a format makes a decoder write more."""
        ...

    def describe_answers(self, problems: Any, answer: np.ndarray) -> dict[str, float]:
        """Quality measures of free text; empty for tasks whose answers are right or wrong."""
        ...


class Format(Protocol):
    """Encodes problems as token rows, and extracts answers from decoded rows."""

    def encode(self, task: Any, problems: Any) -> Encoded: ...
    def answer(self, task: Any, problems: Any, tokens: np.ndarray) -> np.ndarray:
        """The answers [n, A] in decoded rows [n, L]."""
        ...


class OneRightAnswer:
    """Defaults of tasks whose problems have one right answer of fixed length."""

    @property
    def end_id(self) -> None:
        return None

    def describe_answers(self, problems: Any, answer: np.ndarray) -> dict[str, float]:
        return {}


@dataclass(frozen=True)
class PromptedProblems(Sized):
    """Prompts int64 [n, P] and right answers int64 [n, A]."""

    prompt: np.ndarray
    solution: np.ndarray

    def __len__(self) -> int:
        return len(self.prompt)


class PromptedTask(OneRightAnswer, ABC):
    """A task with a prompt and one right answer per problem. Subclasses implement `draw`."""

    test_seed: int

    @abstractmethod
    def draw(self, rng: np.random.Generator, size: int, *, held_out: bool) -> PromptedProblems:
        """`size` random problems: test problems if `held_out`, else training problems."""

    def training_problems(self, rng: np.random.Generator, size: int) -> PromptedProblems:
        return self.draw(rng, size, held_out=False)

    def test_problems(self, num: int) -> PromptedProblems:
        """The first `num` test problems, deterministic. Drawn in chunks of fixed size, so that a shorter list is a
        prefix of a longer one."""
        chunks = [self.draw(np.random.default_rng([self.test_seed, 1, chunk]), _CHUNK, held_out=True)
                  for chunk in range(-(-num // _CHUNK))]
        return PromptedProblems(np.concatenate([chunk.prompt for chunk in chunks])[:num],
                                np.concatenate([chunk.solution for chunk in chunks])[:num])

    def grade(self, problems: PromptedProblems, answer: np.ndarray) -> np.ndarray:
        return (answer == problems.solution).all(1)

    def count_answer_tokens(self, problems: PromptedProblems, answer: np.ndarray) -> int:
        return answer.size


@dataclass(frozen=True)
class PromptThenAnswer:
    """The prompt, then the answer: the same rows for both families."""

    def encode(self, task: Task, problems: PromptedProblems) -> Encoded:
        tokens = np.concatenate((problems.prompt, problems.solution), axis=1)
        start = problems.prompt.shape[1]
        return Encoded(tokens, np.broadcast_to(np.arange(tokens.shape[1]) >= start, tokens.shape), start)

    def answer(self, task: Task, problems: PromptedProblems, tokens: np.ndarray) -> np.ndarray:
        return tokens[:, problems.prompt.shape[1] :]
