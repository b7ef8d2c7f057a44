"""Code lines: what parses, how lines are told apart, and measures that see a collapse. The corpus takes a while."""

import numpy as np
import pytest
from quicksilver.experiments.tasks.code_lines import CodeLines, LineProblems, LineUpToEnd, WholeLine, parses

TASK = CodeLines()


@pytest.mark.parametrize(("line", "expected"), [
    ("x = 1", True), ("return self.name", True), ("raise ValueError(x)", True), ("def f(): pass", False),
    ("x = (1", False), ("", False), ("a; b", False), ("if x: y = 1", False), ("x = \x00", False)])
def test_a_line_is_one_simple_statement(line: str, expected: bool) -> None:
    assert parses(line) == expected


def test_a_corpus_of_another_interpreter_is_refused() -> None:
    with pytest.raises(ValueError, match="python_version='2.7'"):
        CodeLines(python_version="2.7").test_problems(1)


@pytest.mark.slow
def test_real_lines_are_valid_unique_and_cheap_to_the_judge() -> None:
    problems = TASK.test_problems(300)
    answer = WholeLine().answer(TASK, problems, problems.rows)
    assert TASK.grade(problems, answer).all()
    text = TASK.describe_answers(problems, answer)
    assert text["unique"] == text["novel"] == text["valid_unique_novel"] == 1.0
    assert 1.2 < text["judge_nats_per_char"] < 2.2
    assert text["token_entropy"] > 4
    assert 20 < text["mean_chars"] < 32
    assert TASK.count_answer_tokens(problems, answer) == LineUpToEnd().encode(TASK, problems).target.sum()


@pytest.mark.slow
def test_one_line_three_hundred_times_is_seen_as_a_collapse() -> None:
    problems = TASK.test_problems(300)
    same = np.repeat(WholeLine().answer(TASK, problems, problems.rows)[:1], 300, axis=0)
    text = TASK.describe_answers(problems, same)
    assert text["valid"] == 1.0
    assert text["unique"] == pytest.approx(1 / 300)
    assert text["valid_unique_novel"] == pytest.approx(1 / 300)
    assert text["token_entropy"] < 3


@pytest.mark.slow
def test_formats_learn_the_line_and_its_ends() -> None:
    problems = TASK.test_problems(50)
    whole, up_to_end = WholeLine().encode(TASK, problems), LineUpToEnd().encode(TASK, problems)
    assert whole.target[:, 1:].all()
    assert not whole.target[:, 0].any()
    for row, target in zip(up_to_end.tokens, up_to_end.target, strict=True):
        (places,) = np.nonzero(target)
        assert places[0] == 1
        assert row[places[-1]] == TASK.end_id
        assert (row[places[:-1]] != TASK.end_id).all()
    lines = TASK.lines(problems.rows[:, 1:])
    assert all(8 <= len(line) <= 47 for line in lines)


@pytest.mark.slow
def test_no_test_line_is_a_training_line() -> None:
    training = {row.tobytes() for row in TASK.training_problems(np.random.default_rng(0), 50_000).rows}
    assert not [row for row in TASK.test_problems(2000).rows if row.tobytes() in training]


@pytest.mark.parametrize("line_format", [WholeLine(), LineUpToEnd()], ids=str)
def test_a_request_tells_nothing_of_the_held_out_line(line_format: WholeLine | LineUpToEnd) -> None:
    short, long = [7, 8, *[TASK.end_id] * 18], [9] * 19 + [TASK.end_id]
    problems = LineProblems(np.array([[TASK.start_id, *short], [TASK.start_id, *long]]))
    encoded = line_format.encode(TASK, problems)
    assert np.array_equal(encoded.decoded, np.broadcast_to(np.arange(21) >= 1, (2, 21)))
    assert encoded.target.sum() == {WholeLine: 40, LineUpToEnd: 23}[type(line_format)]
