"""Shapes along an axis: the same case at several sizes, for the size at which one implementation overtakes another."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch

from ...kernels.checks import check_integer
from .stages import Item


def along_axis(items: Sequence[Item], axis: str, values: Sequence[int]) -> list[Item]:
    """Every item whose case has the field, dotted where it is one of a field's, at each of the values; cases that are
    then the same once. ValueError if there is no value, one twice or one that a case refuses, or no case with the
    field."""
    if not any(_has(item.case, axis.split(".")) for item in items):
        names = dict.fromkeys(name for item in items for name in _integers(item.case))
        raise ValueError(f"axis={axis!r}: must be one of {', '.join(names)}")
    if not values:
        raise ValueError("values=[]: needs at least one")
    for value in values:
        check_integer("values", value)
    if len(set(values)) < len(values):
        raise ValueError(f"values={list(values)}: names a value twice")
    found: dict[tuple[str, str, str], Item] = {}
    for item in items:
        for value in values if _has(item.case, axis.split(".")) else ():
            try:
                case = _changed(item.case, axis.split("."), value)
                case.cost(torch.float32)
            except (ValueError, RuntimeError) as error:
                raise ValueError(f"{axis}={value}: {item.kernel}, {item.shape}, cannot be so: {error}") from error
            found.setdefault((item.kernel, item.dtype, repr(case)), replace(
                item, shape=f"{item.shape}, {axis}={value}", case=case, along=(item.shape, axis, value)))
    return list(found.values())


def _has(case: Any, path: Sequence[str]) -> bool:
    return ".".join(path) in _integers(case)


def _integers(value: Any) -> list[str]:
    """The names of the integer fields, those of fields that are dataclasses dotted."""
    found = []
    for field in fields(value):
        inner = getattr(value, field.name)
        if is_dataclass(inner):
            found += [f"{field.name}.{name}" for name in _integers(inner)]
        elif isinstance(inner, int) and not isinstance(inner, bool):
            found.append(field.name)
    return found


def _changed(value: Any, path: Sequence[str], size: int) -> Any:
    first, *others = path
    return replace(value, **{first: _changed(getattr(value, first), others, size) if others else size})
