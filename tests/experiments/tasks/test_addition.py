"""Addition: right sums, long carries in half of the problems, unseen operands."""

import numpy as np
import pytest
from quicksilver.experiments.tasks.addition import EQUALS, PLUS, Addition

TASK = Addition()


def numbers(digits: np.ndarray) -> list[int]:
    return [int("".join(map(str, row))) for row in digits.tolist()]


def longest_carry(a: int, b: int) -> int:
    longest = run = carry = 0
    for _ in range(9):
        carry = (a % 10 + b % 10 + carry) // 10
        run = run + 1 if carry else 0
        longest, a, b = max(longest, run), a // 10, b // 10
    return longest


@pytest.mark.parametrize("problems", [TASK.test_problems(400),
                                      TASK.training_problems(np.random.default_rng(0), 400)], ids=["test", "training"])
def test_sums_are_right_and_half_have_long_carries(problems) -> None:
    a, b = numbers(problems.prompt[:, :8]), numbers(problems.prompt[:, 9:17])
    assert (problems.prompt[:, 8] == PLUS).all()
    assert (problems.prompt[:, 17] == EQUALS).all()
    assert numbers(problems.solution) == [x + y for x, y in zip(a, b, strict=True)]
    long = np.mean([longest_carry(x, y) >= 6 for x, y in zip(a, b, strict=True)])
    assert 0.4 < long < 0.65


def test_no_test_pair_can_occur_in_training() -> None:
    def held_out(problems) -> np.ndarray:
        a, b = numbers(problems.prompt[:, :8]), numbers(problems.prompt[:, 9:17])
        return np.array([(31 * x + y) % 97 == 0 for x, y in zip(a, b, strict=True)])

    assert held_out(TASK.test_problems(300)).all()
    assert not held_out(TASK.training_problems(np.random.default_rng(1), 3000)).any()


@pytest.mark.parametrize(("field", "value"), [("num_digits", 1), ("chain_digits", 8), ("chain_digits", 0)])
def test_a_bad_task_is_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{field}="):
        Addition(**{field: value})
