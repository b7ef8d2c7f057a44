"""Conditions of records written by hand."""

from typing import Any

import pytest
from quicksilver.experiments.harness.records import Json
from quicksilver.experiments.study.conditions import Conditions, by_conditions, conditions_of

from tests.experiments.study.test_rows import record, reference, training

HERE = Conditions("bfloat16", "cpu", 1)


def test_a_training_has_its_recipes_and_a_decode_its_models_precision() -> None:
    assert conditions_of(training()) == conditions_of(record("diffusion", 0.9, 2.0)) == HERE
    assert conditions_of(training(precision="float32")) == conditions_of(reference(0.9, precision="float32")) == (
        Conditions("float32", "cpu", 1))


def test_a_pair_trained_in_two_precisions_is_of_neither() -> None:
    mixed = record("diffusion", 0.9, 2.0)
    mixed["point"]["reference"] = {"seed": 0, "recipe": {"precision": "float32"}}
    assert conditions_of(mixed).precision == "bfloat16 beside float32"


def test_a_point_without_a_model_is_refused_with_what_it_lacks() -> None:
    made = record("diffusion", 0.9, 2.0)
    made["point"] = {"kind": "LengthPoint", "name": "sums"}
    with pytest.raises(ValueError, match="LengthPoint has no conditions: .* as `model`"):
        conditions_of(made)


def test_the_device_is_the_gpu_where_that_did_the_work_and_not_where_it_was_idle() -> None:
    for device, name in (("cuda", "H200"), ("cpu", "cpu")):
        made = record("diffusion", 0.9, 2.0)
        made["point"]["device"] = device
        made["provenance"]["gpu"] = {"name": "H200"}
        assert conditions_of(made).device == name


def test_threads_tell_conditions_apart() -> None:
    wide = reference(0.9)
    wide["point"]["threads"] = 2
    found = by_conditions([wide, reference(0.9), reference(0.8)])
    assert [(conditions.label, len(records)) for conditions, records in found.items()] == [
        ("models trained in bfloat16; cpu, 1 thread", 2), ("models trained in bfloat16; cpu, 2 threads", 1)]


@pytest.mark.parametrize(("setting", "value", "said"), [
    ("dtype", "bfloat16", "decoded in bfloat16"), ("capture", "graph", "steps replayed")])
def test_decodes_of_another_kind_stand_apart_and_say_so(setting: str, value: str, said: str) -> None:
    other = reference(0.9)
    other["point"][setting] = value
    found = by_conditions([other, reference(0.9)])
    assert {conditions.label for conditions in found} == {
        f"models trained in bfloat16, {said}; cpu, 1 thread", "models trained in bfloat16; cpu, 1 thread"}


def test_what_was_not_timed_goes_with_what_was_timed_in_one_other_way() -> None:
    def taken(how: str, dtype: str = "float32", **result: Any) -> Json:
        made = reference(0.9)
        made["point"] |= {"capture": how, "dtype": dtype}
        made["result"] = result
        return made

    untimed, replayed = taken("none", right="1"), taken("graph", seconds=1.0)
    assert [len(records) for records in by_conditions([untimed, replayed]).values()] == [2]
    for others in ([taken("graph", seconds=1.0), taken("compile", seconds=1.0)], [taken("graph", "bfloat16")]):
        assert [untimed] in by_conditions([untimed, *others]).values()
    timed = taken("none", seconds=1.0)
    assert sorted(map(len, by_conditions([untimed, timed, replayed]).values())) == [1, 2]
