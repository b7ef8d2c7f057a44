"""Countdown: answers are judged by the rules, solutions are found as by brute force, test targets are held out."""

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quicksilver.experiments.tasks.base import PromptThenAnswer
from quicksilver.experiments.tasks.countdown import Countdown, solutions, solves

TASKS = [Countdown(num_inputs, num_training_rows=300) for num_inputs in (3, 4)]
HELD_OUT = {3: {22, 24, 25, 30, 32, 50, 65, 67, 96}, 4: {14, 39, 41, 57, 62, 81, 87, 89, 96}}
INPUTS, TARGET = (86, 28, 13, 31), 96  # a public test row
ANSWER = "86+28=114,31-13=18,114-18=96"


@pytest.mark.parametrize(("inputs", "target", "answer", "expected"), [
    (INPUTS, TARGET, ANSWER, True),
    (INPUTS, TARGET, "31-13=18,28+86=114,114-18=96", True),
    (INPUTS, TARGET, "86+28=115,31-13=18,114-18=96", False),
    (INPUTS, TARGET, "86+28=114,114-18=96", False),
    (INPUTS, 95, ANSWER, False),
    ((86, 28, 13), TARGET, ANSWER, False),
    ((86, 28, 13, 31, 2), TARGET, ANSWER, False),
    ((96, 2, 3), 96, "3-2=1", False),
    ((96, 2), 96, "", False),
    ((8, 5, 40), 64, "5*8=40,40+40=80,80-16=64", False),
    ((8, 5, 40), 80, "5*8=40,40+40=80", True),
    ((5, 5, 10), 11, "5/5=1,1+10=11", True),
    ((5, 10, 10), 11, "5/5=1,1+10=11", False),
    ((7, 2, 11), 14, "7/2=3,3+11=14", False),
    ((7, 7, 14), 14, "7-7=0,14/0=14", False),
    ((7, 7, 14), 14, "7-7=0,0+14=14", True),
    ((7, 9, 14), 12, "7-9=-2,14+-2=12", False),
    ((7, 9, 14), 12, "9-7=2,14-2=12,", False),
    ((7, 9, 14), 12, "9-7=2 ,14-2=12", False)])
def test_an_answer_is_judged_by_the_rules(inputs: Sequence[int], target: int, answer: str, expected: bool) -> None:
    assert solves(inputs, target, answer) == expected


def brute_force(at_hand: list[int], target: int) -> int:
    """Solutions by trying everything; two orders of the same steps are two."""
    if len(at_hand) == 1:
        return int(at_hand[0] == target)
    found = 0
    for i, j in combinations(range(len(at_hand)), 2):
        rest = [value for place, value in enumerate(at_hand) if place not in (i, j)]
        small, large = sorted((at_hand[i], at_hand[j]))
        results = [large + small, large * small, large - small]
        if small and large % small == 0:
            results.append(large // small)
        found += sum(brute_force([*rest, result], target) for result in results)
    return found


@pytest.mark.parametrize(("num_inputs", "num"), [(3, 300), (4, 40)])
def test_solutions_are_counted_like_brute_force(num_inputs: int, num: int) -> None:
    rng = np.random.default_rng(0)
    inputs, target = rng.integers(1, 100, size=(num, num_inputs)), rng.integers(10, 101, size=num)
    inputs[: num // 2] = rng.integers(1, 10, size=(num // 2, num_inputs))
    number_of, _ = solutions(inputs, target, rng)
    assert number_of.tolist() == [brute_force(list(row), goal) for row, goal in zip(inputs.tolist(), target.tolist(),
                                                                                    strict=True)]
    assert (number_of > 0).sum() > num / 10


def test_every_solution_is_drawn_equally_often() -> None:
    inputs = np.tile([2, 3, 5, 6], (8000, 1))
    number_of, chosen = solutions(inputs, np.full(8000, 16), np.random.default_rng(0))
    (count,) = set(number_of.tolist())
    assert count == brute_force([2, 3, 5, 6], 16)
    _, drawn = np.unique(chosen, return_counts=True)
    assert len(drawn) == count
    chi_square = ((drawn - 8000 / count) ** 2 / (8000 / count)).sum()
    assert chi_square < count + 4 * (2 * count) ** 0.5


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.num_inputs} inputs")
def test_rows_keep_the_rules_and_test_targets_are_held_out(task: Countdown) -> None:
    training = task.training_problems(np.random.default_rng(0), 400)
    test = task.test_problems(200)
    for problems, held_out in ((training, False), (test, True)):
        assert task.grade(problems, problems.solution).all()
        for prompt, row in zip(problems.prompt, problems.solution, strict=True):
            *inputs, target = map(int, "".join("0123456789+-*/=, "[token] for token in prompt).split(","))
            assert len(inputs) == task.num_inputs
            assert 1 <= min(inputs) <= max(inputs) <= 99
            assert (target in HELD_OUT[task.num_inputs]) == held_out
            assert 10 <= target <= 100
            answer = task.answer_text(row)
            assert len(answer) <= task.longest_answer
            for equation in answer.split(","):
                left, result = equation.split("=")
                assert eval(left) == int(result)
            assert set(row[len(answer) :].tolist()) == {task.end_id}


def test_a_wrong_or_unended_answer_is_graded_wrong_and_tokens_are_counted_with_the_end() -> None:
    task = TASKS[1]
    problems = task.test_problems(20)
    wrong = problems.solution.copy()
    wrong[:, 0] = (wrong[:, 0] + 1) % 10
    assert not task.grade(problems, wrong).any()
    unended = np.where(problems.solution == task.end_id, task.vocab_size - 1, problems.solution)
    assert not task.grade(problems, unended).any()
    lengths = [len(task.answer_text(row)) for row in problems.solution]
    assert task.count_answer_tokens(problems, problems.solution) == sum(lengths) + 20
    assert task.count_answer_tokens(problems, unended) == unended.size


def test_rows_are_fixed_and_of_one_length() -> None:
    task = TASKS[1]
    encoded = PromptThenAnswer().encode(task, task.test_problems(200))
    assert encoded.tokens.shape == (200, 15 + 35)
    assert encoded.tokens.max() < task.vocab_size - 1
    np.testing.assert_array_equal(task.test_problems(5).solution, task.test_problems(150).solution[:5])
    a, b, c = (task.training_problems(np.random.default_rng(seed), 9).solution for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def public(folder: Path, *rows: tuple[str, str]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"input": given, "output": answer}) + "\n" for given, answer in rows))
    return str(path)


def test_public_rows_are_taken_from_a_file_again_from_the_first(tmp_path: Path) -> None:
    path = public(tmp_path, ("86,28,13,31,96", ANSWER), ("79,62,7,12,57", "79+62=141,7*12=84,141-84=57"))
    task = Countdown(num_training_rows=10, path=path)
    problems = task.test_problems(3)
    assert [task.answer_text(row) for row in problems.solution] == [ANSWER, "79+62=141,7*12=84,141-84=57", ANSWER]
    assert task.grade(problems, problems.solution).all()
    assert not task.grade(problems, problems.solution[[1, 0, 1]]).any()


@pytest.mark.parametrize(("given", "answer", "message"), [
    ("86,28,13,96", ANSWER, "does not have 4 inputs"), ("86,28,13,31,97", ANSWER, "a target that training leaves out"),
    ("86,28,13,31,96", "86+28=114", "is no solution of"), ("86,28", "", "does not have 4 inputs"),
    ("x", "", "invalid literal")])
def test_foreign_rows_are_refused(tmp_path: Path, given: str, answer: str, message: str) -> None:
    path = public(tmp_path, (given, answer))
    with pytest.raises(ValueError, match="rows.jsonl': must be a file of public Countdown rows") as refused:
        Countdown(path=path)
    assert message in str(refused.value)


@pytest.mark.parametrize(("field", "value"), [
    ("num_inputs", 2), ("num_training_rows", 0), ("base_seed", -1), ("path", "nowhere.jsonl"), ("path", __file__)])
def test_a_bad_task_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field}="):
        Countdown(**{field: value})
