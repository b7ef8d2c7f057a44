"""Lines of the table of speed-ups, from records written by hand."""

from quicksilver.experiments.frontier.speed_ups import FAILS, FASTER, NONE, SLOWER, UNMEASURED, speed_ups
from quicksilver.experiments.study.rows import rows

from tests.experiments.study.test_rows import record, reference


def test_a_task_is_a_line_and_a_batch_size_a_cell_with_its_outcome() -> None:
    table = rows([reference(0.9), record("diffusion", 0.9, 2.0), reference(0.9, batch_size=4),
                  record("diffusion", 0.9, 0.5, batch_size=4), reference(0.9, batch_size=16),
                  record("diffusion", 0.5, 2.0, batch_size=16, steps=1), reference(0.9, batch_size=64),
                  reference(0.01, task="hard"), record("diffusion", 0.5, 2.0, task="hard")])
    hard, sums = speed_ups(table)
    assert (hard.task, hard.outcomes, hard.has_better) == ("hard", {1: FAILS}, True)
    assert (sums.task, sums.outcomes) == ("sums", {1: FASTER, 4: SLOWER, 16: NONE, 64: UNMEASURED})
    assert not sums.has_better


def test_another_reference_of_the_same_task_is_another_line() -> None:
    table = rows([made for items in (100, 200) for made in (
        reference(0.9, num_items=items), record("diffusion", 0.9, items / 150, num_items=items))])
    assert [(line.task, line.outcomes) for line in speed_ups(table)] == [("sums", {1: SLOWER}),
                                                                         ("sums (2)", {1: FASTER})]
