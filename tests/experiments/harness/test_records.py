"""Records: named by their point, atomic, and never read when damaged."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from quicksilver.experiments.harness.records import ADDED_LATER, RecordStore, describe, key_of, read_record
from quicksilver.experiments.training.trainer import TrainingPoint
from quicksilver.kernels.moe_router import Routing, Scoring


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "records")


def test_a_record_comes_back(store: RecordStore, training_point: Callable[..., TrainingPoint]) -> None:
    point = training_point()
    assert store.read(point) is None
    written = store.write(point, {"right": 0.5}, {"commit": "abc"})
    assert store.read(point) == written == next(iter(store.all()))
    assert store.path(point).stem == key_of(point)


def test_everything_that_changes_the_answer_changes_the_name(training_point: Callable[..., TrainingPoint]) -> None:
    keys = {key_of(training_point()), key_of(training_point(seed=1)), key_of(training_point(updates=7)),
            key_of(training_point(threads=2)), key_of(training_point(precision="bfloat16"))}
    assert len(keys) == 5
    assert key_of(training_point()) == key_of(training_point())


def test_equal_numbers_of_any_library_have_one_name() -> None:
    theirs = {"seed": np.int64(3), "share": np.float32(0.5), "lengths": [np.uint8(2)]}
    assert describe(theirs) == {"seed": 3, "share": 0.5, "lengths": [2]}
    assert key_of(theirs) == key_of({"seed": 3, "share": 0.5, "lengths": [2]})


@dataclass(frozen=True)
class Grown:
    steps: int
    is_exact: bool = field(default=False, metadata=ADDED_LATER)


def test_a_field_added_later_leaves_earlier_records_their_names() -> None:
    assert describe(Grown(3)) == {"kind": "Grown", "steps": 3}
    assert describe(Grown(3, True)) == {"kind": "Grown", "steps": 3, "is_exact": True}


@pytest.mark.parametrize("damage", [
    lambda text: text[:-20], lambda text: "", lambda text: "[]", lambda text: text.replace('"seed": 0', '"seed": 5'),
    lambda text: json.dumps({"point": json.loads(text)["point"]})])
def test_a_damaged_record_is_named_and_not_read(
        store: RecordStore, training_point: Callable[..., TrainingPoint], damage: Callable[[str], str],
        capsys: pytest.CaptureFixture[str]) -> None:
    point = training_point()
    store.write(point, {"right": 0.5}, {})
    store.path(point).write_text(damage(store.path(point).read_text()))
    with pytest.raises(ValueError, match=f"{key_of(point)}.json: a damaged record"):
        read_record(store.path(point))
    assert store.read_whole(point) is None


def test_a_record_may_not_hold_nan(store: RecordStore, training_point: Callable[..., TrainingPoint]) -> None:
    store.write(training_point(seed=1), {"a": 1.0}, {})
    with pytest.raises(FloatingPointError, match="may not hold nan"):
        store.write(training_point(), {"a": [{"b": float("nan")}]}, {})
    assert [record["point"]["seed"] for record in store.all()] == [1]


def test_what_a_killed_write_left_is_removed(store: RecordStore, training_point: Callable[..., TrainingPoint]) -> None:
    path = store.path(training_point())
    path.parent.mkdir(parents=True)
    (path.parent / f".{path.name}.abc123").write_text("half")
    store.write(training_point(), {}, {})
    assert [child.name for child in store.folder.iterdir()] == [path.name]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_earlier_records_intact(
        store: RecordStore, training_point: Callable[..., TrainingPoint], monkeypatch: pytest.MonkeyPatch,
        call: str) -> None:
    store.write(training_point(), {"right": 0.5}, {})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left on device"):
        store.write(training_point(seed=1), {"right": 0.5}, {})
    monkeypatch.undo()
    assert [record["point"]["seed"] for record in store.all()] == [0]
    assert len(list(store.folder.iterdir())) == 1


def test_an_enum_is_described_by_its_value() -> None:
    assert describe(Routing(2, Scoring.SIGMOID))["scoring"] == "sigmoid"


def test_only_plain_values_describe_a_point() -> None:
    with pytest.raises(ValueError, match="a point holds dataclasses"):
        describe({"a": object()})
