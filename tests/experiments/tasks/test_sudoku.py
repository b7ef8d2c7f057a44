"""Sudoku: unique solutions, exact grading, symmetries, and test grids from elsewhere."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from quicksilver.experiments.tasks.sudoku import BLANK, Sudoku, SudokuProblems

SIZES = [Sudoku(2, 2, 10, num_training_bases=12), Sudoku(2, 3, 22, num_training_bases=12),
         Sudoku(3, 3, 50, num_training_bases=3)]


def brute_force_count(task: Sudoku, puzzle: np.ndarray) -> int:
    """Solutions by trying every filling of the blanks, row by row against the rules."""
    side, cells = task.side, puzzle.tolist()
    blanks = [cell for cell, digit in enumerate(cells) if digit == BLANK]

    def allowed(cell: int, digit: int) -> bool:
        row, column = divmod(cell, side)
        for other, value in enumerate(cells):
            r, c = divmod(other, side)
            same_box = (r // task.box_height, c // task.box_width) == (row // task.box_height, column // task.box_width)
            if value == digit and other != cell and (r == row or c == column or same_box):
                return False
        return True

    def count(rest: list[int]) -> int:
        if not rest:
            return 1
        found = 0
        for digit in range(1, side + 1):
            if allowed(rest[0], digit):
                cells[rest[0]] = digit
                found += count(rest[1:])
                cells[rest[0]] = BLANK
        return found

    return count(blanks)


@pytest.mark.parametrize("task", SIZES, ids=str)
@pytest.mark.parametrize("draw", [lambda task: task.test_problems(4),
                                  lambda task: task.training_problems(np.random.default_rng(3), 4)])
def test_every_puzzle_has_its_number_of_blanks_and_one_solution(task: Sudoku, draw: Callable) -> None:
    problems = draw(task)
    assert ((problems.puzzle == BLANK).sum(1) == task.num_blanks).all()
    assert task.grade(problems, problems.solution).all()
    assert [task.count_solutions(puzzle) for puzzle in problems.puzzle] == [1] * 4


def test_the_solver_counts_like_brute_force() -> None:
    task = SIZES[0]
    rng = np.random.default_rng(0)
    for solution in task.test_problems(6).solution:
        puzzle = solution.copy()
        puzzle[rng.permutation(16)[:13]] = BLANK
        assert task.count_solutions(puzzle, limit=300) == brute_force_count(task, puzzle)
    assert task.count_solutions(np.array([1, 1, *[0] * 14])) == 0
    assert task.count_solutions(np.zeros(16, int), limit=500) == 288


def test_grading_wants_clues_rows_columns_and_boxes() -> None:
    task = SIZES[1]
    problems = task.test_problems(3)
    for a, b in itertools.islice(itertools.combinations(range(36), 2), 0, None, 7):
        swapped = problems.solution.copy()
        swapped[:, [a, b]] = swapped[:, [b, a]]
        differs = problems.solution[:, a] != problems.solution[:, b]
        assert (task.grade(problems, swapped) == ~differs).all()


def test_rows_columns_and_boxes_must_each_be_right() -> None:
    """Each grid breaks one kind only."""
    task = SIZES[1]
    right = task.test_problems(1).solution.reshape(6, 6)
    rows, columns = right.copy(), right.copy()
    rows[[0, 1], 0] = right[[1, 0], 0]
    columns[0, [0, 1]] = right[0, [1, 0]]
    boxes = np.add.outer(np.arange(6), np.arange(6)) % 6 + 1
    answers = np.stack((rows, columns, boxes)).reshape(3, 36)
    assert not task.grade(SudokuProblems(np.full_like(answers, BLANK), answers), answers).any()


def test_a_right_grid_with_other_clues_is_wrong() -> None:
    task = SIZES[1]
    problems = task.test_problems(2)
    renamed = problems.solution % 6 + 1
    assert not task.grade(problems, renamed).any()


@pytest.mark.parametrize("task", SIZES[1:], ids=str)
def test_no_test_grid_is_a_training_grid_with_its_digits_renamed(task: Sudoku) -> None:
    def renamed(grid: np.ndarray) -> tuple[int, ...]:
        names: dict[int, int] = {}
        return tuple(names.setdefault(digit, len(names)) for digit in grid.tolist())

    training = {renamed(grid) for grid in task.training_bases[1]}
    assert not training & {renamed(grid) for grid in task.test_problems(10).solution}


@pytest.mark.parametrize(("field", "value"), [("box_height", 0), ("num_blanks", 31), ("num_blanks", 0),
                                              ("num_training_bases", 0), ("base_seed", -1)])
def test_a_bad_task_is_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{field}="):
        Sudoku(**{"box_height": 2, "box_width": 3, "num_blanks": 22, field: value})
