"""Records: named by their point, atomic, and never read when damaged."""

import errno
import importlib
import json
import os
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from quicksilver import experiments
from quicksilver.experiments.harness.records import (
    ADDED_LATER,
    Json,
    RecordStore,
    describe,
    key_of,
    kind_of,
    read_record,
)
from quicksilver.experiments.training.recipe import TrainingPoint
from quicksilver.kernels.moe_router import Routing, Scoring

RESULTS = Path(__file__).resolve().parents[3] / "results"
PLACES = tuple(f"quicksilver.{name}" for name in ("kernels.moe_router", "models.", "decoders.", "experiments."))


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
    assert store.completed(point) is None


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


@dataclass(frozen=True)
class Renamed:
    kind: ClassVar[str] = "Original"
    steps: int


@dataclass(frozen=True)
class Derived(Renamed):
    pass


def test_a_renamed_class_keeps_its_name_in_records_and_gives_it_to_no_subclass() -> None:
    assert describe(Renamed(4)) == {"kind": "Original", "steps": 4}
    assert describe(Derived(4)) == {"kind": "Derived", "steps": 4}


def classes_by_kind() -> dict[str, list[type]]:
    """The dataclasses of models, decoders and experiments."""
    (folder,) = map(Path, experiments.__path__)
    for path in folder.rglob("*.py"):
        importlib.import_module(".".join((experiments.__name__, *path.relative_to(folder).with_suffix("").parts)))
    found: dict[str, list[type]] = {}
    for module in [module for name, module in sys.modules.items() if name.startswith(PLACES)]:
        for cls in vars(module).values():
            if isinstance(cls, type) and is_dataclass(cls) and cls.__module__ == module.__name__:
                found.setdefault(kind_of(cls), []).append(cls)
    found["PresetPoint"] = found["DecodePoint"]  # whose points tell their kind in a field
    return found


def has_fields(cls: type[Any], names: set[str]) -> bool:
    """Whether a record of a dataclass, beside its kind, may have these fields: all but some that were added later."""
    own = {field.name for field in fields(cls)} - {"kind"}
    return own - {field.name for field in fields(cls) if "added_later" in field.metadata} <= names <= own


def rebuilt(value: Any, classes: dict[str, list[type]]) -> Any:
    """The object that a description describes, made with today's classes."""
    if isinstance(value, list):
        return tuple(rebuilt(item, classes) for item in value)
    if not isinstance(value, dict):
        return value
    values = {name: rebuilt(item, classes) for name, item in value.items() if name != "kind"}
    if "kind" not in value:
        return values
    for cls in classes[value["kind"]]:
        if has_fields(cls, set(values)):
            hints = typing.get_type_hints(cls)
            told = {"kind": value["kind"]} if "kind" in {field.name for field in fields(cls)} else {}
            return cls(**told, **{name: _as(hints[name], item) for name, item in values.items()})
    raise AssertionError(f"{value['kind']}: no class has the fields {', '.join(values)}")


def _as(hint: Any, value: Any) -> Any:
    return hint(value) if isinstance(hint, type) and issubclass(hint, Enum) else value


@pytest.mark.parametrize("study", ["default", "expert_union", "older_cpu"])
def test_todays_classes_give_committed_records_their_names(study: str) -> None:
    """The other studies' points are older than a field that has a default today."""
    classes, kinds = classes_by_kind(), set()
    for path in (RESULTS / study / "records").glob("*.json"):
        point = read_record(path)["point"]
        assert key_of(rebuilt(point, classes)) == path.stem, path
        kinds.add(point["kind"])
    assert kinds > {"TrainingPoint"}


def parts_of(description: Any) -> Iterator[Json]:
    """Every described object in a description."""
    if isinstance(description, dict):
        if "kind" in description:
            yield description
        for item in description.values():
            yield from parts_of(item)
    elif isinstance(description, list):
        for item in description:
            yield from parts_of(item)


def test_every_class_and_field_in_committed_records_is_one_of_today() -> None:
    """A class that is renamed without its `kind`, and a field that is renamed, are named here."""
    recorded: dict[str, set[str]] = {}
    for path in RESULTS.glob("*/records/*.json"):
        for part in parts_of(read_record(path)["point"]):
            recorded.setdefault(part["kind"], set()).update(part.keys() - {"kind"})
    today = {kind: {field.name for cls in classes for field in fields(cls)}
             for kind, classes in classes_by_kind().items()}
    assert not recorded.keys() - today.keys()
    assert not {kind: names - today[kind] for kind, names in recorded.items() if names - today[kind]}
