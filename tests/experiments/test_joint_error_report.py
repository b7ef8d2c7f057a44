"""What is said of parallel commits, from records written by hand."""

import numpy as np
from quicksilver.experiments.joint_error_report import section

from tests.experiments.handmade import joint_record
from tests.experiments.test_joint_error_rows import BAD, GOOD


def test_where_quality_breaks_is_told_with_what_is_lost_there() -> None:
    (sentence,) = section([joint_record(4, GOOD), joint_record(1, BAD, bound=2.0, gap=-0.5, wrong_gap=9.0),
                           joint_record(2, GOOD, bound=0.25, gap=0.125)], ["here"]).findings
    assert "quality holds down to 2 steps (100.0 %, within" in sentence
    assert "loses 0.12 nats an item (bound 0.25), and breaks at 1 step (50.0 %): 4.25 nats an item" in sentence
    assert "9.0 nats in the wrong answers alone" in sentence


def test_quality_that_does_not_break_is_said_to_hold() -> None:
    (sentence,) = section([joint_record(1, GOOD, gap=-0.001), joint_record(4, GOOD)], ["here"]).findings
    assert sentence.startswith("sums: 1 step solves 100.0 %, as 4 steps do within")
    assert "loses 0.00 nats" in sentence


def test_a_task_that_fails_one_token_at_a_time_is_not_blamed_on_the_joint() -> None:
    (sentence,) = section([joint_record(1, "0" * 50, gap=1.0), joint_record(4, "0" * 50)], ["here"]).findings
    assert "even 4 steps solve 0.0 %" in sentence
    assert "is not what fails" in sentence


def test_the_figure_is_an_image_of_the_promised_size() -> None:
    records = [joint_record(steps, GOOD, task=task) for task in "abcd" for steps in (1, 2)]
    image = section(records, ["here"]).images["joint_error.png"]
    width, height = np.frombuffer(image[16:24], ">u4")
    assert 300 < width <= 1500
    assert 300 < height < 1500
    failed = section([records[0] | {"result": {"failed": "why"}}], ["here"])
    assert (failed.images, failed.findings) == ({}, [])
