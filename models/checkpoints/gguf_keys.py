"""A GGUF file's values, read key by key in the types that llama.cpp demands. What is read by none may change what the
model computes, as in a config.json: see `unread`."""

from typing import Any

import numpy as np

from ...kernels.checks import check_integer, check_real, shown
from .gguf_header import Header
from .gguf_values import ValueType

_REQUIRED: Any = object()
# What says nothing of the forward: names and sources, text, and how the file was quantised.
_INERT = "general.", "tokenizer.", "quantize."


class Keys:
    """The values of a header; those of an architecture by what follows its name and a dot. ValueErrors name the key."""

    def __init__(self, header: Header) -> None:
        self.header, self.path = header, header.values.path
        self._read: set[str] = set()
        self.architecture: str = self.text("general.architecture")

    def own(self, name: str) -> str:
        """A key of the architecture."""
        return f"{self.architecture}.{name}"

    def integer(self, key: str, default: Any = _REQUIRED, at_least: int = 1) -> Any:
        value = self._take(key, ValueType.UINT32, default)
        return value if value is None else check_integer(f"{self.path}: {key}", value, at_least)

    def real(self, key: str, default: Any = _REQUIRED) -> Any:
        """The shortest decimal that is this float32: 1e-05, not 9.999999747378752e-06."""
        value = self._take(key, ValueType.FLOAT32, default)
        return value if value is None else check_real(f"{self.path}: {key}", float(str(np.float32(value))), above=0)

    def short(self, key: str, default: int) -> int:
        return self._take(key, ValueType.UINT16, default)

    def signed(self, key: str, default: int) -> int:
        return self._take(key, ValueType.INT32, default)

    def flag(self, key: str, default: Any = _REQUIRED) -> Any:
        return self._take(key, ValueType.BOOL, default)

    def text(self, key: str, default: Any = _REQUIRED) -> Any:
        return self._take(key, ValueType.STRING, default)

    def expect(self, key: str, wanted: int | bool | str) -> None:
        """If there is a value, it must be this one."""
        kinds = {bool: ValueType.BOOL, int: ValueType.UINT32, str: ValueType.STRING}
        value = self._take(key, kinds[type(wanted)], wanted)
        if value != wanted:
            raise ValueError(f"{self.path}: {key}={shown(value)}: must be {wanted!r}")

    def heads(self) -> tuple[int, int]:
        """Those of queries, and of keys and values."""
        name = self.own("attention.head_count")
        heads = self.integer(name)
        kv_heads = self.integer(f"{name}_kv", heads)
        if heads % kv_heads:
            raise ValueError(f"{self.path}: {name}_kv={kv_heads}: must divide the {heads} heads")
        return heads, kv_heads

    def num_experts(self) -> int:
        return self.integer(self.own("expert_count"), 0, at_least=0)

    def unread(self) -> dict[str, Any]:
        """What is there that was not read, and may say something of the forward."""
        values = self.header.values
        return {key: values[key] if values.found[key].count is None else f"an {values.found[key].kind}"
                for key in values if key not in self._read and not key.startswith(_INERT)}

    def _take(self, key: str, kind: ValueType, default: Any) -> Any:
        self._read.add(key)
        found = self.header.values.found.get(key)
        if found is None:
            if default is _REQUIRED:
                raise ValueError(f"{self.path}: has no {key}, which the model needs")
            return default
        if found.type != kind or found.count is not None:
            raise ValueError(f"{self.path}: {key} of type {found.kind}: must be {kind.name}")
        return self.header.values[key]

