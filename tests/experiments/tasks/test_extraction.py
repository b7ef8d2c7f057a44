"""Extraction: the answer is what the clauses say, in the fields' order; test records are unseen."""

import numpy as np
import pytest
from quicksilver.experiments.tasks.extraction import Extraction

TASK = Extraction()
FIRST_CUE, FIRST_VALUE = 1 + 8, 1 + 8 + 18


@pytest.mark.parametrize("problems", [TASK.test_problems(100), TASK.training_problems(np.random.default_rng(0), 100)],
                         ids=["test", "training"])
def test_the_answer_is_read_off_the_clauses(problems) -> None:
    assert problems.prompt.shape == (100, 19)
    for prompt, answer in zip(problems.prompt.tolist(), problems.solution.tolist(), strict=True):
        said = {(prompt[i] - FIRST_CUE) // 3: prompt[i + 2] for i in range(1, 19, 3)}
        assert [said[field] for field in range(6)] == answer
        assert [(value - FIRST_VALUE) // 24 for value in answer] == list(range(6))


def test_clauses_are_shuffled() -> None:
    orders = {tuple((row[1::3] - FIRST_CUE) // 3) for row in TASK.test_problems(100).prompt}
    assert len(orders) > 80


def test_no_test_record_can_occur_in_training() -> None:
    def held_out(answer: np.ndarray) -> np.ndarray:
        return ((answer - FIRST_VALUE) % 24).sum(1) % 7 == 0

    assert held_out(TASK.test_problems(200).solution).all()
    assert not held_out(TASK.training_problems(np.random.default_rng(1), 2000).solution).any()


def test_a_bad_task_is_refused() -> None:
    with pytest.raises(ValueError, match="num_fields=0"):
        Extraction(num_fields=0)
