"""Type check of a composed configuration against the annotations of the classes and functions that it builds. A value
of a wrong type is refused by its name on the command line, before anything is built."""

import dataclasses
import inspect
import pkgutil
import types
import typing
from collections.abc import Mapping, Sequence
from enum import EnumType
from functools import cache
from typing import Any

from .reads import Place, children, followed

_MISSING = "???"
_SCALARS = {bool: "true or false", int: "an integer", float: "a number", str: "text", type(None): "null"}
_LONGEST_SHOWN = 60


@dataclasses.dataclass(frozen=True)
class ConfigTypes:
    """The check of one configuration: dicts, lists and scalars, interpolations unresolved."""

    config: Mapping[str, Any]

    def check(self, place: Place, hint: Any) -> None:
        """ValueError names a node whose value is not of its annotated type. Checks the node at `place`, those below it
        and those that interpolations refer to."""
        place, value = followed(self.config, place)
        if value == _MISSING:
            raise ValueError(f"{_named(place)}: must be given")
        if isinstance(value, Mapping) and "_target_" in value:
            self._check_call(place, value, hint)
        elif not any(self._is(place, value, choice) for choice in _choices(hint)):
            raise ValueError(f"{_named(place)}={_shown(value)}: must be {_in_words(hint)}")

    def _is(self, place: Place, value: Any, hint: Any) -> bool:
        """Whether a value without `_target_` is of one type; its children are checked too."""
        kind = typing.get_origin(hint) or hint
        if kind is Any or isinstance(kind, typing.TypeVar):
            return True
        if kind is typing.Literal:
            return value in typing.get_args(hint)
        if kind in _SCALARS:
            return type(value) is kind or (kind is float and type(value) is int)
        if issubclass(kind, Mapping) and isinstance(value, Mapping):
            of_each = typing.get_args(hint)[1]
        elif issubclass(kind, Sequence) and isinstance(value, list):
            of_each = typing.get_args(hint)[0]
        else:
            return False
        for key in children(value):
            self.check((*place, key), of_each)
        return True

    def _check_call(self, place: Place, call: Mapping[str, Any], hint: Any) -> None:
        """Check a call's `_target_` and arguments."""
        target = _target(place, call["_target_"])
        made = _made(target)
        if isinstance(made, type) and not any(_makes(made, choice) for choice in _choices(hint)):
            raise ValueError(f"{_named(place)}={target.__name__}: must be {_in_words(hint)}")
        if isinstance(target, EnumType):
            return  # its argument has no name; the class itself checks it
        hints = _parameters(target)
        for key in call:
            if key.startswith("_"):
                continue
            if key not in hints:
                raise ValueError(f"unknown key {_named((*place, key))!r}: must be one of {', '.join(hints)}")
            self.check((*place, key), hints[key])


@cache
def _parameters(target: Any) -> Mapping[str, Any]:
    """The parameters of a class or a function with their annotations."""
    is_plain_class = isinstance(target, type) and not dataclasses.is_dataclass(target)
    hints = typing.get_type_hints(target.__init__ if is_plain_class else target)
    return {name: hints.get(name, Any) for name in inspect.signature(target).parameters}


@cache
def _made(target: Any) -> Any:
    """The type of object that calling a class or a function returns, None if not annotated."""
    return target if isinstance(target, type) else typing.get_type_hints(target).get("return")


def _named(place: Place) -> str:
    return ".".join(place)


def _choices(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


@cache
def _importable(path: str) -> Any:
    """The object with a dotted name, or None if it cannot be imported."""
    try:
        return pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError):
        return None


def _target(place: Place, path: object) -> Any:
    target = _importable(path) if isinstance(path, str) else None
    if not callable(target):
        raise ValueError(f"{_named(place)}._target_={_shown(path)}: must name a class or a function that can be "
                         "imported")
    return target


@cache
def _makes(target: type, hint: Any) -> bool:
    """Whether an instance of the class satisfies the annotation; for a protocol, whether it has all members."""
    if hint is Any:
        return True
    if not isinstance(hint, type) or hint in _SCALARS:
        return False
    if typing.Protocol not in hint.__bases__:
        return issubclass(target, hint)
    has = {*dir(target), *typing.get_type_hints(target)}
    return all(member in has for member in (*vars(hint), *hint.__annotations__) if not member.startswith("_"))


def _in_words(hint: Any) -> str:
    return " or ".join(_kind_in_words(choice) for choice in _choices(hint))


def _kind_in_words(hint: Any) -> str:
    kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in _SCALARS:
        return _SCALARS[kind]
    if kind is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if issubclass(kind, Mapping):
        return f"a dict, each value {_in_words(arguments[1])}"
    if issubclass(kind, Sequence):
        return f"a list, each entry {_in_words(arguments[0])}"
    return f"a {kind.__name__}, as {{_target_: ...}}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
