"""A tape as Python: its operators, called one after another."""

from collections.abc import Callable, Sequence
from typing import Any

from .tape import Entry, Value


class _Source:
    """Python source of the entries, and what its names stand for."""

    def __init__(self) -> None:
        self.scope: dict[str, Any] = {}
        self._names: dict[int, str] = {}

    def bound(self, thing: Any) -> str:
        """A name for something that is there before the function runs."""
        if id(thing) not in self._names:
            self._names[id(thing)] = f"c{len(self._names)}"
            self.scope[self._names[id(thing)]] = thing.tensor if isinstance(thing, Value) else thing
        return self._names[id(thing)]

    def made(self, value: Value) -> str:
        self._names[id(value)] = f"t{len(self._names)}"
        return self._names[id(value)]

    def expression(self, value: Any) -> str:
        if isinstance(value, Value):
            return self.bound(value) if value.is_kept else self._names[id(value)]
        if isinstance(value, tuple | list):
            return f"[{', '.join(map(self.expression, value))}]"
        return repr(value) if value is None or isinstance(value, bool | int | str) else self.bound(value)


def replay_of(entries: Sequence[Entry]) -> Callable[[], None]:
    """A function that runs the entries in turn and lets go of each value after its last use."""
    last_use: dict[int, int] = {}
    for number, entry in enumerate(entries):
        for value in entry.values:
            if not value.is_kept:
                last_use[id(value)] = number
    source, lines = _Source(), []
    for number, entry in enumerate(entries):
        arguments = [*map(source.expression, entry.args),
                     *(f"{name}={source.expression(value)}" for name, value in entry.kwargs.items())]
        call = f"{source.bound(entry.operator)}({', '.join(arguments)})"
        names = ["_" if value is None else source.made(value) for value in entry.results]
        if any(name != "_" for name in names):
            call = f"({', '.join(names)},) = {call}" if entry.is_sequence else f"{names[0]} = {call}"
        done = {source.expression(value): None for value in entry.values if last_use.get(id(value)) == number}
        lines.append(call + (f"; del {', '.join(done)}" if done else ""))
    parameters = ", ".join(f"{name}={name}" for name in source.scope)
    exec("\n    ".join([f"def replay({parameters}):", *lines, "return"]), source.scope)
    return source.scope["replay"]
