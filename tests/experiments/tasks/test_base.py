"""What every task keeps: test problems are a fixed list, solutions grade as right, and formats lose nothing."""

from typing import Any

import numpy as np
import pytest
from quicksilver.experiments.tasks.addition import Addition
from quicksilver.experiments.tasks.base import Format, PromptThenAnswer, Task
from quicksilver.experiments.tasks.extraction import Extraction
from quicksilver.experiments.tasks.sudoku import InPlace, PuzzleThenBlanks, PuzzleThenGrid, Sudoku

SUDOKU = Sudoku(2, 2, 10, num_training_bases=20)
PAIRS: list[tuple[Task, Format]] = [
    (SUDOKU, InPlace()), (SUDOKU, PuzzleThenGrid()), (SUDOKU, PuzzleThenBlanks()),
    (Addition(), PromptThenAnswer()), (Extraction(), PromptThenAnswer())]


def rows(problems: Any) -> np.ndarray:
    return np.concatenate(list(vars(problems).values()), axis=1)


@pytest.mark.parametrize(("task", "form"), PAIRS, ids=str)
def test_a_shorter_test_is_the_beginning_of_a_longer_one(task: Task, form: Format) -> None:
    np.testing.assert_array_equal(rows(task.test_problems(5)), rows(task.test_problems(150))[:5])


@pytest.mark.parametrize(("task", "form"), PAIRS, ids=str)
def test_training_problems_are_a_function_of_the_generator(task: Task, form: Format) -> None:
    a, b, c = (rows(task.training_problems(np.random.default_rng(seed), 6)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


@pytest.mark.parametrize(("task", "form"), PAIRS, ids=str)
def test_a_right_answer_grades_as_right_and_a_changed_one_as_wrong(task: Task, form: Format) -> None:
    problems = task.test_problems(20)
    encoded = form.encode(task, problems)
    assert encoded.tokens.max() < task.vocab_size - 1
    assert task.grade(problems, form.answer(task, problems, encoded.tokens)).all()
    assert not encoded.target[:, : encoded.start].any()
    for position in np.flatnonzero(encoded.target.all(0)):
        wrong = encoded.tokens.copy()
        wrong[:, position] = wrong[:, position] % (task.vocab_size - 2) + 1
        assert not task.grade(problems, form.answer(task, problems, wrong)).any()


# Not of 4x4 Sudoku, whose 288 fillings are all in training: test_sudoku checks the base grids of the larger ones.
@pytest.mark.parametrize(("task", "form"), [pair for pair in PAIRS if pair[0] != SUDOKU], ids=str)
def test_no_test_problem_is_a_training_problem(task: Task, form: Format) -> None:
    test = {row.tobytes() for row in form.encode(task, task.test_problems(200)).tokens}
    training = form.encode(task, task.training_problems(np.random.default_rng(0), 5000)).tokens
    assert not [row for row in training if row.tobytes() in test]
