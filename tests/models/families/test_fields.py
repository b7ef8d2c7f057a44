"""A configuration's fields: defaults, ranges, and what nobody has read."""

from collections.abc import Callable
from typing import Any

import pytest
from quicksilver.models.families.fields import Fields

VALUES = {"width": 8, "eps": 1e-5, "tied": True, "layers": [0, 2], "rope": {"factor": 2.0}, "none": None, "name": "x"}


def fields() -> Fields:
    return Fields(VALUES, "config.json")


def test_fields_are_read_and_null_is_absent() -> None:
    found = fields()
    assert (found.integer("width"), found.real("eps"), found.flag("tied"), found.integers("layers")) == (
        8, 1e-5, True, (0, 2))
    assert found.integer("none", 3) == found.integer("missing", 3) == 3
    assert found.integers("missing") == ()
    table = found.table("rope")
    assert table is not None
    assert table.real("factor") == 2.0
    assert found.table("none") is None
    assert "none" in found
    assert "missing" not in found


@pytest.mark.parametrize(("read", "message"), [
    (lambda found: found.take("missing"), "config.json: has no missing, which the model needs"),
    (lambda found: found.take("none"), "config.json: has no none"),
    (lambda found: found.integer("eps"), "config.json: eps=1e-05: must be an integer"),
    (lambda found: found.integer("tied"), "tied=True: must be an integer"),
    (lambda found: found.real("name"), "name='x': must be a number"),
    (lambda found: found.flag("width"), "width=8: must be true or false"),
    (lambda found: found.integers("width"), "width=8: must be a list of integers"),
    (lambda found: found.integers("rope"), "rope="),
    (lambda found: found.table("layers"), r"layers=\[0, 2\]: must be a table"),
    (lambda found: found.table("rope").integer("factor"), "config.json: rope: factor=2.0: must be an integer"),
    (lambda found: found.expect("name", "silu", "gelu"), "name='x': must be one of 'silu', 'gelu'"),
])
def test_what_is_missing_or_wrong_is_named(read: Callable[[Any], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(fields())


def test_what_nobody_read_is_refused_unless_it_says_nothing_or_is_ignored() -> None:
    found = Fields({"width": 8, "torch_dtype": "float32", "new_scale": 2.0, "other": 1, "null": None}, "config.json")
    found.integer("width")
    with pytest.raises(ValueError, match=r"new_scale, other: unknown .* ignoring=\['new_scale', 'other'\]"):
        found.check_all_read()
    with pytest.raises(ValueError, match=r"config.json: other: unknown"):
        found.check_all_read(["new_scale"])
    found.check_all_read(["new_scale", "other"])
