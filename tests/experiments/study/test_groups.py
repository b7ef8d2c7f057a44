"""What is pooled and what is not."""

import pytest
from quicksilver.experiments.study.groups import groups_of
from quicksilver.experiments.study.rows import numbered

from tests.experiments.handmade import joint_record


def named(*records: dict) -> list[tuple[str, int, int, int]]:
    return [(group.task, group.steps, group.number, len(group.results)) for group in groups_of(records, "name")]


def test_seeds_of_one_setting_are_pooled_and_nothing_else_is() -> None:
    assert named(joint_record(2, "10"), joint_record(2, "11", seed=1), joint_record(3, "10")) == [
        ("sums", 2, 1, 2), ("sums", 3, 1, 1)]
    assert named(joint_record(2, "10"), joint_record(2, "1011")) == [("sums", 2, 1, 1), ("sums", 2, 2, 1)]
    assert (numbered("dual", 1), numbered("dual", 2)) == ("dual", "dual (2)")


def test_another_family_of_model_is_named_and_kept_apart() -> None:
    assert named(joint_record(2, "10"), joint_record(2, "10", objective="BlockDiffusion"),
                 joint_record(2, "10", objective="AutoregressiveNLL")) == [
        ("sums", 2, 1, 1), ("sums, autoregressive", 2, 1, 1), ("sums, block diffusion", 2, 1, 1)]


def test_failed_points_are_left_out() -> None:
    assert named(joint_record(2, "10") | {"result": {"failed": "why"}}) == []


def test_two_precisions_are_refused() -> None:
    other = joint_record(2, "11", seed=1)
    other["point"]["model"]["recipe"]["precision"] = "float32"
    with pytest.raises(ValueError, match="must be of one"):
        groups_of([joint_record(2, "10"), other], "name")
