"""Sudoku: fill the blanks of a grid that has exactly one solution.

Boxes are box_height x box_width; the grid's side is their product. A puzzle is a random full grid from which cells are
blanked while the solution stays unique. Training puzzles are also transformed by the grid's symmetries (digits, rows
within a band, bands, columns within a stack, stacks). Beyond 4x4, no test grid is a training base with its digits
renamed. Small grids have few classes under these symmetries (training covers all 288 fillings of 4x4 and many of 6x6):
there only the clue patterns are new. 9x9 grids do not recur.

    >>> task = Sudoku(box_height=2, box_width=2, num_blanks=10)
    >>> problems = task.test_problems(3)
    >>> bool(task.grade(problems, problems.solution).all())
    True
"""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from ...kernels.checks import check_integer
from .base import Encoded, OneRightAnswer

BLANK = 0
_MIN_CLUES = {4: 4, 6: 8, 9: 17}  # of a puzzle with one solution, by side
_MAX_ATTEMPTS = 50
_MAX_BOX_SIDE = 5


@dataclass(frozen=True)
class SudokuProblems:
    """Puzzles (0 where blank) and their solutions, digits from 1: int64 [n, cells] each."""

    puzzle: np.ndarray
    solution: np.ndarray

    def __len__(self) -> int:
        return len(self.puzzle)


@dataclass(frozen=True)
class Sudoku(OneRightAnswer):
    box_height: int
    box_width: int
    num_blanks: int
    num_training_bases: int = 2000
    base_seed: int = 0

    def __post_init__(self) -> None:
        check_integer("box_height", self.box_height, at_most=_MAX_BOX_SIDE)
        check_integer("box_width", self.box_width, at_most=_MAX_BOX_SIDE)
        check_integer("num_blanks", self.num_blanks)
        check_integer("num_training_bases", self.num_training_bases)
        check_integer("base_seed", self.base_seed, at_least=0)
        min_clues = _MIN_CLUES.get(self.side, self.side)
        if self.num_blanks > self.num_cells - min_clues:
            raise ValueError(f"num_blanks={self.num_blanks}: must leave at least {min_clues} of {self.num_cells} "
                             "cells as clues, or no puzzle has one solution")

    @property
    def side(self) -> int:
        return self.box_height * self.box_width

    @property
    def num_cells(self) -> int:
        return self.side * self.side

    @property
    def vocab_size(self) -> int:
        """The blank, the digits, the mask."""
        return self.side + 2

    def training_problems(self, rng: np.random.Generator, size: int) -> SudokuProblems:
        """`size` symmetric variants of random base puzzles."""
        puzzle, solution = self.training_bases
        pick = rng.integers(len(puzzle), size=size)
        return self._varied(rng, puzzle[pick], solution[pick])

    def test_problems(self, num: int) -> SudokuProblems:
        """The first `num` test puzzles, deterministic."""
        return _test_problems(self, num)

    def grade(self, problems: SudokuProblems, answer: np.ndarray) -> np.ndarray:
        """Whether each filled grid [n, cells] keeps the clues and satisfies every row, column and box: bool [n]."""
        keeps_clues = ((problems.puzzle == BLANK) | (answer == problems.puzzle)).all(1)
        digits = np.arange(1, self.side + 1)
        complete = [(np.sort(answer[:, unit], axis=1) == digits).all(1) for unit in self._units]
        return keeps_clues & np.all(complete, axis=0)

    def count_answer_tokens(self, problems: SudokuProblems, answer: np.ndarray) -> int:
        return int((problems.puzzle == BLANK).sum())

    def count_solutions(self, puzzle: np.ndarray, limit: int = 2) -> int:
        """Number of solutions of one puzzle [cells], counted up to `limit`."""
        cells = puzzle.tolist()
        used = [0] * (3 * self.side)
        for cell, digit in enumerate(cells):
            if digit:
                if any(used[unit] >> digit & 1 for unit in self._units_of[cell]):
                    return 0
                self._flip(used, cell, 1 << digit)
        blanks = [cell for cell, digit in enumerate(cells) if digit == BLANK]
        return self._count(blanks, used, limit)

    def _flip(self, used: list[int], cell: int, bit: int) -> None:
        """Mark a digit, as its bit, as used in the units of a cell, or as free again."""
        for unit in self._units_of[cell]:
            used[unit] ^= bit

    def _allowed(self, used: list[int], cell: int) -> int:
        """The digits that are not used in any unit of a cell, as bits."""
        row, column, box = self._units_of[cell]
        return self._every & ~(used[row] | used[column] | used[box])

    def _count(self, blanks: list[int], used: list[int], limit: int) -> int:
        if not blanks:
            return 1
        units_of, every, fewest, choice, allowed = self._units_of, self._every, self.side + 1, -1, 0
        for cell in blanks:
            row, column, box = units_of[cell]
            free = every & ~(used[row] | used[column] | used[box])
            if free.bit_count() < fewest:
                fewest, choice, allowed = free.bit_count(), cell, free
                if fewest <= 1:
                    break
        rest, found = [cell for cell in blanks if cell != choice], 0
        while allowed and found < limit:
            bit = allowed & -allowed
            allowed ^= bit
            self._flip(used, choice, bit)
            found += self._count(rest, used, limit - found)
            self._flip(used, choice, bit)
        return found

    def random_grid(self, rng: np.random.Generator) -> np.ndarray:
        """A random full grid [cells], by backtracking on the cell with the fewest choices."""
        used, cells = [0] * (3 * self.side), [BLANK] * self.num_cells

        def fill(blanks: list[int]) -> bool:
            if not blanks:
                return True
            choices = [self._allowed(used, cell).bit_count() for cell in blanks]
            choice = blanks[choices.index(min(choices))]
            allowed = self._allowed(used, choice)
            digits = [digit for digit in range(1, self.side + 1) if allowed >> digit & 1]
            rest = [cell for cell in blanks if cell != choice]
            for digit in rng.permutation(digits) if digits else ():
                cells[choice] = int(digit)
                self._flip(used, choice, 1 << cells[choice])
                if fill(rest):
                    return True
                self._flip(used, choice, 1 << cells[choice])
            return False

        fill(rng.permutation(self.num_cells).tolist())
        return np.array(cells)

    def dig(self, grid: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Blank `num_blanks` cells of a full grid in random order, skipping cells without which the solution is not
        unique. Retried in another order if that gives too few; ValueError after `_MAX_ATTEMPTS`."""
        for _ in range(_MAX_ATTEMPTS):
            puzzle, blanks, used = grid.copy(), [], [self._every] * (3 * self.side)
            for cell in rng.permutation(self.num_cells).tolist():
                bit = 1 << int(grid[cell])
                self._flip(used, cell, bit)
                if self._has_other(blanks, used, cell, bit):
                    self._flip(used, cell, bit)
                    continue
                puzzle[cell] = BLANK
                blanks.append(cell)
                if len(blanks) == self.num_blanks:
                    return puzzle
        raise ValueError(f"num_blanks={self.num_blanks}: no puzzle with so many blanks in {_MAX_ATTEMPTS} attempts")

    def _has_other(self, blanks: list[int], used: list[int], cell: int, bit: int) -> bool:
        """Whether blanking `cell` (digit `bit`) too gives a puzzle a second solution, one with another digit there."""
        others, found = self._allowed(used, cell) & ~bit, 0
        while others and not found:
            other = others & -others
            others ^= other
            self._flip(used, cell, other)
            found = self._count(blanks, used, limit=1)
            self._flip(used, cell, other)
        return found > 0

    @cached_property
    def training_bases(self) -> tuple[np.ndarray, np.ndarray]:
        """Base puzzles and their solutions, int64 [num_training_bases, cells] each."""
        rng = np.random.default_rng([self.base_seed, 0])
        grids = [self.random_grid(rng) for _ in range(self.num_training_bases)]
        return np.array([self.dig(grid, rng) for grid in grids]), np.array(grids)

    def _varied(self, rng: np.random.Generator, puzzle: np.ndarray, solution: np.ndarray) -> SudokuProblems:
        num = len(puzzle)
        rows = _permuted_lines(rng, num, bands=self.box_width, lines=self.box_height)
        columns = _permuted_lines(rng, num, bands=self.box_height, lines=self.box_width)
        cells = (rows[:, :, None] * self.side + columns[:, None, :]).reshape(num, -1)
        digits = np.concatenate((np.zeros((num, 1), np.int64), rng.random((num, self.side)).argsort(1) + 1), axis=1)
        pick = np.arange(num)[:, None]
        return SudokuProblems(digits[pick, puzzle[pick, cells]], digits[pick, solution[pick, cells]])

    @cached_property
    def _every(self) -> int:
        """All digits, as bits."""
        return (2 << self.side) - 2

    @cached_property
    def _units_of(self) -> list[tuple[int, int, int]]:
        """The row, column and box of each cell; units are numbered consecutively."""
        place = [divmod(cell, self.side) for cell in range(self.num_cells)]
        boxes_per_band = self.side // self.box_width
        return [(row, self.side + column,
                 2 * self.side + row // self.box_height * boxes_per_band + column // self.box_width)
                for row, column in place]

    @cached_property
    def _units(self) -> list[list[int]]:
        """The cells of each row, column and box."""
        return [[cell for cell, units in enumerate(self._units_of) if unit in units] for unit in range(3 * self.side)]


@cache
def _test_problems(task: Sudoku, num: int) -> SudokuProblems:
    rng = np.random.default_rng([task.base_seed, 1])
    known = {_renamed(grid) for grid in task.training_bases[1]}
    grids_are_few = task.num_cells <= 16
    puzzles, solutions = [], []
    while len(puzzles) < num:
        grid = task.random_grid(rng)
        if grids_are_few or _renamed(grid) not in known:
            puzzles.append(task.dig(grid, rng))
            solutions.append(grid)
    return SudokuProblems(np.array(puzzles), np.array(solutions))


def _permuted_lines(rng: np.random.Generator, num: int, *, bands: int, lines: int) -> np.ndarray:
    """`num` permutations of bands x lines rows that keep bands together: int64 [num, bands * lines]."""
    band = rng.random((num, bands)).argsort(1)
    line = rng.random((num, bands, lines)).argsort(2)
    return (band[:, :, None] * lines + line).reshape(num, -1)


def _renamed(grid: np.ndarray) -> bytes:
    """The grid with its digits renamed in order of first appearance."""
    _, first, inverse = np.unique(grid, return_index=True, return_inverse=True)
    return first.argsort().argsort()[inverse].astype(np.int8).tobytes()


@dataclass(frozen=True)
class InPlace:
    """The canvas is the grid: clues are given, blanks are decoded. For any-order decoders only."""

    def encode(self, task: Sudoku, problems: SudokuProblems) -> Encoded:
        return Encoded(problems.solution, problems.puzzle == BLANK, 0)

    def answer(self, task: Sudoku, problems: SudokuProblems, tokens: np.ndarray) -> np.ndarray:
        return tokens


@dataclass(frozen=True)
class PuzzleThenGrid:
    """The puzzle, then the whole grid row by row."""

    def encode(self, task: Sudoku, problems: SudokuProblems) -> Encoded:
        tokens = np.concatenate((problems.puzzle, problems.solution), axis=1)
        return Encoded(tokens, np.broadcast_to(np.arange(tokens.shape[1]) >= task.num_cells, tokens.shape),
                       task.num_cells)

    def answer(self, task: Sudoku, problems: SudokuProblems, tokens: np.ndarray) -> np.ndarray:
        return tokens[:, task.num_cells :]


@dataclass(frozen=True)
class PuzzleThenBlanks:
    """The puzzle, then the digits of its blanks in reading order."""

    def encode(self, task: Sudoku, problems: SudokuProblems) -> Encoded:
        blanks = problems.solution[problems.puzzle == BLANK].reshape(len(problems), -1)
        tokens = np.concatenate((problems.puzzle, blanks), axis=1)
        return Encoded(tokens, np.broadcast_to(np.arange(tokens.shape[1]) >= task.num_cells, tokens.shape),
                       task.num_cells)

    def answer(self, task: Sudoku, problems: SudokuProblems, tokens: np.ndarray) -> np.ndarray:
        grid = problems.puzzle.copy()
        grid[problems.puzzle == BLANK] = tokens[:, task.num_cells :].ravel()
        return grid
