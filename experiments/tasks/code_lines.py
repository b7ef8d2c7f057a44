"""One-line Python statements, generated without a prompt: free text, judged by several measures.

The corpus is the running interpreter's standard library without its tests: distinct simple statements of 8 to 47 ASCII
characters, each a line that parses by itself. A file is a test file if the last byte of its path's MD5 is 9 modulo 10;
test lines that also occur in a training file are dropped. Tokens are a byte-level BPE trained on the training lines.
The corpus depends on the interpreter, so its version is part of the task.

    valid                 parses as a Python statement
    unique, novel         share of distinct lines; share of lines that are not in the training corpus
    judge_nats_per_char   of a character n-gram model that is independent of both families
    token_entropy         of the tokens of all lines together, in nats: low when a decoder repeats itself
"""

import ast
import hashlib
import platform
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ...kernels.checks import check_integer
from .base import Encoded
from .ngram_model import NgramJudge

_SHORTEST, _LONGEST = 8, 47
_SIMPLE = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr, ast.Return, ast.Raise, ast.Assert, ast.Import,
           ast.ImportFrom, ast.Delete, ast.Global, ast.Nonlocal)
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "idlelib", "site-packages", "lib2to3"}


@dataclass(frozen=True)
class LineProblems:
    """Lines as token rows: <start>, tokens, then <end> up to the row's end, int64 [n, 1 + max_tokens + 1]. Decoding
    uses only their number and shape."""

    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class CodeLines:
    num_bpe_tokens: int = 1024
    max_tokens: int = 19
    python_version: str = field(default_factory=platform.python_version)

    def __post_init__(self) -> None:
        check_integer("num_bpe_tokens", self.num_bpe_tokens, at_least=257)
        check_integer("max_tokens", self.max_tokens)

    @property
    def vocab_size(self) -> int:
        """The BPE tokens, <start>, <end>, the mask."""
        return self.num_bpe_tokens + 3

    @property
    def start_id(self) -> int:
        return self.num_bpe_tokens

    @property
    def end_id(self) -> int:
        return self.num_bpe_tokens + 1

    def training_problems(self, rng: np.random.Generator, size: int) -> LineProblems:
        rows = _corpus(self).training_rows
        return LineProblems(rows[rng.integers(len(rows), size=size)])

    def test_problems(self, num: int) -> LineProblems:
        """The first `num` held-out lines, repeated if there are fewer."""
        rows = _corpus(self).test_rows
        return LineProblems(rows[np.arange(num) % len(rows)])

    def grade(self, problems: LineProblems, answer: np.ndarray) -> np.ndarray:
        return np.array([parses(line) for line in self.lines(answer)])

    def count_answer_tokens(self, problems: LineProblems, answer: np.ndarray) -> int:
        return sum(min(len(self._until_end(row)) + 1, len(row)) for row in answer.tolist())

    def describe_answers(self, problems: LineProblems, answer: np.ndarray) -> dict[str, float]:
        lines, corpus = self.lines(answer), _corpus(self)
        valid = [parses(line) for line in lines]
        first = [line not in lines[:number] for number, line in enumerate(lines)]
        novel = [line not in corpus.training_lines for line in lines]
        tokens = np.bincount([token for row in answer.tolist() for token in self._until_end(row)] or [0])
        share = tokens[tokens > 0] / tokens.sum()
        return {"valid": float(np.mean(valid)), "unique": len(set(lines)) / len(lines), "novel": float(np.mean(novel)),
                "valid_unique_novel": float(np.mean([all(marks) for marks in zip(valid, first, novel, strict=True)])),
                "judge_nats_per_char": corpus.judge.nats_per_char(lines),
                "token_entropy": float(-(share * np.log(share)).sum()),
                "mean_chars": float(np.mean([len(line) for line in lines]))}

    def lines(self, answer: np.ndarray) -> list[str]:
        """The text of answers (token rows without <start>) up to their end token."""
        return _corpus(self).tokenizer.decode_batch([self._until_end(row) for row in answer.tolist()])

    def _until_end(self, row: list[int]) -> list[int]:
        return row[: row.index(self.end_id)] if self.end_id in row else row


@dataclass(frozen=True)
class WholeLine:
    """The line, then end tokens up to the end of the row, for any-order decoders."""

    def encode(self, task: CodeLines, problems: LineProblems) -> Encoded:
        target = np.broadcast_to(np.arange(problems.rows.shape[1]) >= 1, problems.rows.shape)
        return Encoded(problems.rows, target, 1)

    def answer(self, task: CodeLines, problems: LineProblems, tokens: np.ndarray) -> np.ndarray:
        return tokens[:, 1:]


@dataclass(frozen=True)
class LineUpToEnd:
    """The line and its first end token, where a left-to-right decoder stops. The rest of the row is decoded but not a
    target: a row that stops where the held-out line does would leak its length."""

    def encode(self, task: CodeLines, problems: LineProblems) -> Encoded:
        ended = np.cumsum(problems.rows == task.end_id, axis=1)
        target = (ended == 0) | ((ended == 1) & (problems.rows == task.end_id))
        target[:, 0] = False
        return Encoded(problems.rows, target, 1, ungraded=ended > 0)

    answer = WholeLine.answer


def parses(line: str) -> bool:
    """Whether a line is one simple Python statement."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # such as `1if x else 2`: odd, but it parses
            body = ast.parse(line).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return len(body) == 1 and isinstance(body[0], _SIMPLE)


@dataclass(frozen=True)
class _Corpus:
    tokenizer: Tokenizer
    training_lines: frozenset[str]
    training_rows: np.ndarray
    test_rows: np.ndarray
    judge: NgramJudge


@cache
def _corpus(task: CodeLines) -> _Corpus:
    if task.python_version != platform.python_version():
        raise ValueError(f"python_version={task.python_version!r}: must be the running interpreter's, "
                         f"{platform.python_version()}")
    training, test = _split_lines(Path(sysconfig.get_paths()["stdlib"]))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(training, trainers.BpeTrainer(
        vocab_size=task.num_bpe_tokens, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return _Corpus(tokenizer, frozenset(training), _rows(task, tokenizer, training), _rows(task, tokenizer, test),
                   NgramJudge.fitted(training))


def _rows(task: CodeLines, tokenizer: Tokenizer, lines: Sequence[str]) -> np.ndarray:
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(lines)]
    short = [ids for ids in encoded if len(ids) <= task.max_tokens]
    return np.array([[task.start_id, *ids, *[task.end_id] * (task.max_tokens + 1 - len(ids))] for ids in short])


def _split_lines(folder: Path) -> tuple[list[str], list[str]]:
    """Distinct training lines and test lines, in order of first occurrence."""
    training: dict[str, None] = {}
    test: dict[str, None] = {}
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        if not _SKIPPED_FOLDERS.intersection(relative.parts):
            held_out = hashlib.md5(relative.as_posix().encode()).digest()[-1] % 10 == 9
            (test if held_out else training).update(dict.fromkeys(_simple_lines(path)))
    return list(training), [line for line in test if line not in training]


def _simple_lines(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    for line in text.splitlines():
        line = line.strip()
        if _SHORTEST <= len(line) <= _LONGEST and line.isascii() and parses(line):
            yield line
