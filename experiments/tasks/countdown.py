"""Countdown: reach a target from some numbers, each used once, by +, -, * and exact /.

    86,28,13,31, 96  ->  86+28=114,31-13=18,114-18=96

The rules are those of the public test rows of "Beyond Autoregression" (arXiv 2410.14157): inputs from 1 to 99; targets
from 10 to 100, nine of them held out for the test; no negative numbers. As there, inputs and a reachable target are
drawn uniformly, and sums and products keep the order of their numbers. The solution is drawn uniformly from all; if it
is longer than the longest public answer, the problem is dropped. An answer is right if every equation is true, every
input is used once, and the last value is the target.

Tokens are characters, as in the published results: intermediate values have up to four digits, too many and too rare
for a token each. Prompts have columns of fixed width. End tokens fill the row after the answer.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations
from pathlib import Path

import numpy as np

from ...kernels.checks import check_integer
from .base import PromptedProblems

_SYMBOLS = "0123456789+-*/=, $?"  # the last two are the end and the mask
_ID_OF = np.zeros(128, np.int8)
_ID_OF[np.frombuffer(_SYMBOLS.encode(), np.uint8)] = np.arange(len(_SYMBOLS))
_SIGNS = "+*-/"
_EQUATION = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)", re.ASCII)
_TARGETS = range(10, 101)
_CHUNK = 128
_DRAWN_AT_ONCE = 8192


@dataclass(frozen=True)
class _Public:
    """The targets and the longest answer of the public test rows with a given number of inputs."""

    targets: tuple[int, ...]
    longest_answer: int


_PUBLIC = {3: _Public((22, 24, 25, 30, 32, 50, 65, 67, 96), 21),
           4: _Public((14, 39, 41, 57, 62, 81, 87, 89, 96), 34),
           5: _Public((43, 48, 51, 68, 73, 80, 92, 95, 98), 47)}


@dataclass(frozen=True)
class Countdown:
    """`path` names a file of public test rows: JSON lines of `input` and `output`. Without it, test rows are drawn."""

    num_inputs: int = 4
    num_training_rows: int = 500_000
    path: str | None = None
    base_seed: int = 0

    def __post_init__(self) -> None:
        check_integer("num_training_rows", self.num_training_rows)
        check_integer("base_seed", self.base_seed, at_least=0)
        if self.num_inputs not in _PUBLIC:
            raise ValueError(f"num_inputs={self.num_inputs!r}: must be one of {', '.join(map(str, _PUBLIC))}")
        if self.path is not None:
            _public_rows(self)

    @property
    def vocab_size(self) -> int:
        return len(_SYMBOLS)

    @property
    def end_id(self) -> int:
        return _SYMBOLS.index("$")

    @property
    def held_out_targets(self) -> tuple[int, ...]:
        return _PUBLIC[self.num_inputs].targets

    @property
    def longest_answer(self) -> int:
        """Characters of the longest answer. A row has one more token for it, the end."""
        return _PUBLIC[self.num_inputs].longest_answer

    def training_problems(self, rng: np.random.Generator, size: int) -> PromptedProblems:
        rows = self._training_rows
        pick = rng.integers(len(rows.prompt), size=size)
        return PromptedProblems(rows.prompt[pick].astype(np.int64), rows.solution[pick].astype(np.int64))

    def test_problems(self, num: int) -> PromptedProblems:
        """The first `num` test problems, deterministic. Those of a file are repeated if there are fewer."""
        if self.path is None:
            chunks = [_test_chunk(self, chunk) for chunk in range(-(-num // _CHUNK))]
            rows = PromptedProblems(np.concatenate([chunk.prompt for chunk in chunks]),
                                    np.concatenate([chunk.solution for chunk in chunks]))
        else:
            rows = _public_rows(self)
        pick = np.arange(num) % len(rows)
        return PromptedProblems(rows.prompt[pick].astype(np.int64), rows.solution[pick].astype(np.int64))

    def grade(self, problems: PromptedProblems, answer: np.ndarray) -> np.ndarray:
        right = []
        for prompt, row in zip(problems.prompt, answer, strict=True):
            *inputs, target = map(int, _text(prompt).split(","))
            right.append(solves(inputs, target, self.answer_text(row)))
        return np.array(right)

    def count_answer_tokens(self, problems: PromptedProblems, answer: np.ndarray) -> int:
        return sum(min(len(self.answer_text(row)) + 1, len(row)) for row in answer)

    def describe_answers(self, problems: PromptedProblems, answer: np.ndarray) -> dict[str, float]:
        return {}

    def answer_text(self, row: np.ndarray) -> str:
        """The text of one answer [A] up to its end token."""
        return _text(row).partition("$")[0]

    @cached_property
    def _training_rows(self) -> PromptedProblems:
        targets = [target for target in _TARGETS if target not in self.held_out_targets]
        return _drawn(self, np.random.default_rng([self.base_seed, 0]), targets, self.num_training_rows)


def solves(inputs: Sequence[int], target: int, text: str) -> bool:
    """Whether an answer's equations are all true, use every input and intermediate result once, and give the target."""
    available = Counter(inputs)
    for equation in text.split(","):
        parts = _EQUATION.fullmatch(equation)
        if parts is None:
            return False
        left, right, result = int(parts[1]), int(parts[3]), int(parts[4])
        values = {"+": left + right, "-": left - right, "*": left * right,
                  "/": left // right if right and left % right == 0 else None}
        available.subtract((left, right))
        if values[parts[2]] != result or available[left] < 0 or available[right] < 0:
            return False
        available[result] += 1
    return +available == Counter((target,))


@cache
def _test_chunk(task: Countdown, chunk: int) -> PromptedProblems:
    return _drawn(task, np.random.default_rng([task.base_seed, 1, chunk]), task.held_out_targets, _CHUNK)


def _drawn(task: Countdown, rng: np.random.Generator, targets: Sequence[int], size: int) -> PromptedProblems:
    """`size` problems with their solutions, int8."""
    lines: list[str] = []
    at_once = min(2 * size, _DRAWN_AT_ONCE)
    while len(lines) < size:
        inputs = rng.integers(1, 100, size=(at_once, task.num_inputs))
        target = rng.choice(targets, size=at_once)
        number_of, chosen = solutions(inputs, target, rng)
        (found,) = np.nonzero(number_of)
        answers = _written(inputs[found], chosen[found])
        lines += [_line(task, *row) for row in zip(inputs[found].tolist(), target[found].tolist(), answers, strict=True)
                  if len(row[2]) <= task.longest_answer]
    return _rows(task, lines[:size])


def solutions(inputs: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The number of solutions of each row of inputs [n, k] for its target [n], and one drawn uniformly: int64 [n] each.

    A solution is encoded as a number in base 64 with one digit per equation: four times the index of the pair of
    available numbers, plus the index of the sign. The result of an equation is appended to the available numbers."""
    number_of, chosen = np.zeros(len(inputs), np.int64), np.zeros(len(inputs), np.int64)

    def count(rows: np.ndarray, code: int) -> None:
        number_of[rows] += 1
        rows = rows[rng.random(len(rows)) * number_of[rows] < 1]
        chosen[rows] = code

    def search(available: list[np.ndarray], rows: np.ndarray, code: int) -> None:
        for number, (i, j) in enumerate(combinations(range(len(available)), 2)):
            code_of_sum = 64 * code + 4 * number
            rest = [values for place, values in enumerate(available) if place not in (i, j)]
            small, large = np.minimum(available[i], available[j]), np.maximum(available[i], available[j])
            if not rest:
                wanted = target[rows]
                count(rows[large + small == wanted], code_of_sum)
                count(rows[large * small == wanted], code_of_sum + 1)
                count(rows[large - small == wanted], code_of_sum + 2)
                count(rows[(wanted * small == large) & (small > 0)], code_of_sum + 3)
                continue
            search([*rest, large + small], rows, code_of_sum)
            search([*rest, large * small], rows, code_of_sum + 1)
            search([*rest, large - small], rows, code_of_sum + 2)
            quotient = large // np.maximum(small, 1)
            exact = (quotient * small == large) & (small > 0)
            search([values[exact] for values in (*rest, quotient)], rows[exact], code_of_sum + 3)

    search(list(inputs.T), np.arange(len(inputs)), 0)
    return number_of, chosen


def _written(inputs: np.ndarray, chosen: np.ndarray) -> list[str]:
    """The text of solutions as encoded by `solutions`."""
    available, row = inputs, np.arange(len(inputs))
    steps = []
    for size in range(inputs.shape[1], 1, -1):
        digit = chosen // 64 ** (size - 2) % 64
        i, j = np.array(list(combinations(range(size), 2)))[digit // 4].T
        sign, first, second = digit % 4, available[row, i], available[row, j]
        small, large = np.minimum(first, second), np.maximum(first, second)
        result = np.choose(sign, (large + small, large * small, large - small, large // np.maximum(small, 1)))
        left, right = np.where(sign < 2, first, large), np.where(sign < 2, second, small)
        steps.append([f"{a}{_SIGNS[s]}{b}={c}" for a, s, b, c in zip(
            left.tolist(), sign.tolist(), right.tolist(), result.tolist(), strict=True)])
        kept = np.ones(available.shape, bool)
        kept[row, i] = kept[row, j] = False
        available = np.concatenate((available[kept].reshape(len(row), -1), result[:, None]), axis=1)
    return [",".join(equations) for equations in zip(*steps, strict=True)]


def _line(task: Countdown, inputs: Sequence[int], target: int, answer: str) -> str:
    return f"{','.join(f'{value:2}' for value in inputs)},{target:3}{answer:$<{task.longest_answer + 1}}"


def _rows(task: Countdown, lines: Sequence[str]) -> PromptedProblems:
    tokens = _ID_OF[np.frombuffer("".join(lines).encode(), np.uint8)].reshape(len(lines), -1)
    start = 3 * task.num_inputs + 3
    return PromptedProblems(tokens[:, :start], tokens[:, start:])


def _text(row: np.ndarray) -> str:
    return "".join(_SYMBOLS[token] for token in row.tolist())


@cache
def _public_rows(task: Countdown) -> PromptedProblems:
    assert task.path is not None
    try:
        found = [json.loads(line) for line in Path(task.path).read_text().splitlines()]
        lines = []
        for number, row in enumerate(found, start=1):
            *inputs, target = map(int, row["input"].split(","))
            if len(inputs) != task.num_inputs or target not in task.held_out_targets:
                raise ValueError(f"row {number}, {row['input']!r}, does not have {task.num_inputs} inputs and a target "
                                 "that training leaves out")
            if len(row["output"]) > task.longest_answer or not solves(inputs, target, row["output"]):
                raise ValueError(f"row {number}: {row['output']!r} is no solution of {row['input']!r}")
            lines.append(_line(task, inputs, target, row["output"]))
        if not lines:
            raise ValueError("it has no rows")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"path={task.path!r}: must be a file of public Countdown rows ({error})") from None
    return _rows(task, lines)
