"""What a composed configuration is read for: the nodes that an experiment is made of, by its interpolations.

A configuration is plain here: dicts, lists and scalars, interpolations still written out ("${model.experts}"). A place
in it is the tuple of keys that lead there, since a key may hold dots.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

Place = tuple[str, ...]

_REFERENCE = re.compile(r"\$\{([^${}:]+)\}")


def followed(config: Mapping[str, Any], place: Place) -> tuple[Place, Any]:
    """Place and value of a node, or of the one that it stands for where it is nothing but an interpolation. The value
    is None where there is no such node."""
    at: Place = ()
    value: Any = config
    for key in place:
        at, value = (*at, key), children(value).get(key)
        reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if reference:
            at, value = followed(config, _place(reference[1], at))
    return at, value


def reads(config: Mapping[str, Any], start: Place) -> dict[Place, Any]:
    """All nodes that `start` is made of: those below it, and those that interpolations name."""
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
    """What a dict or a list holds, by its keys in words; nothing where it is a scalar."""
    if isinstance(value, Mapping):
        return {str(key): child for key, child in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {str(number): child for number, child in enumerate(value)}
    return {}


def _place(reference: str, holder: Place) -> Place:
    """Where an interpolation points to: from the root, or, where it begins with dots, from the node that holds it."""
    path = reference.replace("[", ".").replace("]", "")
    keys = path.lstrip(".")
    num_dots = len(path) - len(keys)
    return (*(holder[:-num_dots] if num_dots else ()), *keys.split("."))
