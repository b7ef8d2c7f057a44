"""The nodes of a composed configuration that an experiment reads, directly or through interpolations.

A configuration is dicts, lists and scalars, interpolations unresolved ("${model.experts}"). A place in it is the tuple
of keys that lead there, since a key may contain dots.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

Place = tuple[str, ...]

_REFERENCE = re.compile(r"\$\{([^${}:]+)\}")


def followed(config: Mapping[str, Any], place: Place) -> tuple[Place, Any]:
    """Place and value of a node, or of its target if it is a single interpolation. The value is None if there is no
    such node."""
    at: Place = ()
    value: Any = config
    for key in place:
        at, value = (*at, key), children(value).get(key)
        reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if reference:
            at, value = followed(config, _place(reference[1], at))
    return at, value


def reads(config: Mapping[str, Any], start: Place) -> dict[Place, Any]:
    """All nodes that `start` depends on: those below it, and those that interpolations refer to."""
    found: dict[Place, Any] = {}
    left = [start]
    while left:
        place = left.pop()
        if place in found:
            continue
        value = children(followed(config, place[:-1])[1]).get(place[-1])
        found[place] = value
        left += [(*place, key) for key in children(value)]
        if isinstance(value, str):
            left += [_place(reference, place) for reference in _REFERENCE.findall(value)]
    return found


def children(value: Any) -> Mapping[str, Any]:
    """The values of a dict or a list by their keys or indices as strings; empty for a scalar."""
    if isinstance(value, Mapping):
        return {str(key): child for key, child in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {str(number): child for number, child in enumerate(value)}
    return {}


def _place(reference: str, holder: Place) -> Place:
    """The place that an interpolation refers to: absolute, or relative to its holder if it begins with dots."""
    path = reference.replace("[", ".").replace("]", "")
    keys = path.lstrip(".")
    num_dots = len(path) - len(keys)
    return (*(holder[:-num_dots] if num_dots else ()), *keys.split("."))
