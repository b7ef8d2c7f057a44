"""What is said of parallel commits, from records written by hand."""

from quicksilver.experiments.joint_error.section import section

from tests.experiments.handmade import joint_record
from tests.experiments.joint_error.test_rows import BAD, GOOD


def test_where_quality_breaks_is_told_with_what_is_lost_there_over_all_tasks() -> None:
    of_tasks = [made for task, gap in (("a", 0.125), ("b", 0.25)) for made in (
        joint_record(4, GOOD, task=task), joint_record(1, BAD, bound=2.0, gap=-0.5, wrong_gap=9.0, task=task),
        joint_record(2, GOOD, gap=gap, task=task))]
    assert section(of_tasks, ["here"]).findings == [
        "Quality holds down to 2 of 4 steps on a and 2 of 4 steps on b: committing together loses 0.12 to 0.25 nats an "
        "item there, and 4.25 nats an item at the next fewer steps, where it breaks."]


def test_quality_that_does_not_break_is_said_to_hold() -> None:
    (sentence,) = section([joint_record(1, GOOD, gap=-0.001), joint_record(4, GOOD)], ["here"]).findings
    assert sentence == ("Quality holds down to 1 of 4 steps on sums: committing together loses 0.00 nats an item "
                        "there.")


def test_a_task_that_fails_one_token_at_a_time_is_not_blamed_on_the_joint() -> None:
    (sentence,) = section([joint_record(1, "0" * 50, gap=1.0), joint_record(4, "0" * 50)], ["here"]).findings
    assert sentence == "What committing together loses is not what fails on sums (0.0 % at 4 steps)."


def test_a_failed_point_alone_makes_a_section_without_a_figure() -> None:
    found = section([joint_record(1, GOOD) | {"result": {"failed": "why"}}], ["here"])
    assert (found.images, found.findings) == ({}, [])
