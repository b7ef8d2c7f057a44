"""A tape: the operators of a step, kept while it runs and run again without the Python that chose them.

As in a CUDA graph, everything stays at its address: tensors that the step found are read and written where they are,
its results are written to the same memory every time, and shapes and numbers are those of the step that was kept. Views
of what was found, and what follows from constants alone, are not made again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from ...kernels.case import parts_of, tensors_of, with_tensors

T = TypeVar("T")

# How Python reads a tensor, whether an operator runs for it or not.
_READS = frozenset({Tensor.tolist, Tensor.item, Tensor.numpy, Tensor.__array__, Tensor.__bool__, Tensor.__int__,
                    Tensor.__float__, Tensor.__index__})
_UNREPEATABLE = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view)
# Of its shapes it depends on values only where it is given a mask.
_INDEX = torch.ops.aten.index.Tensor


class Value:
    """A tensor of the tape. A view's root is the tensor that it is of, any other's itself. Of a root: whether it was
    found, made of constants alone, written; and whether it has its constant value still. `tensor` is kept of those that
    need not be made again."""

    def __init__(self, tensor: Tensor, root: "Value | None" = None, *, is_found: bool = False,
                 is_constant: bool = False) -> None:
        self.root = root or self
        self.is_found, self.is_made_of_constants, self.is_constant = is_found, is_constant and not is_found, is_constant
        self.is_written = False
        self.tensor = tensor if self.root.is_found or self.root.is_made_of_constants else None

    def write(self) -> None:
        self.root.is_written, self.root.is_constant = True, False

    @property
    def is_kept(self) -> bool:
        """Whether it is there before a replay."""
        root = self.root
        return root.is_found or (root.is_made_of_constants and not root.is_written)


@dataclass(frozen=True)
class Entry:
    """An operator with values in the place of tensors; those of its results that are new, None for the others."""

    operator: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[Value | None, ...]
    is_sequence: bool
    writes: bool

    @property
    def values(self) -> Iterator[Value]:
        """All that it takes and makes."""
        return parts_of((self.args, tuple(self.kwargs.values()), self.results), Value)

    @property
    def is_needed(self) -> bool:
        return self.writes or not all(value is None or value.is_kept for value in self.results)


class _Reads(TorchFunctionMode):
    """Refuses for a tape what Python reads."""

    def __init__(self, tape: "Tape") -> None:
        super().__init__()
        self._tape = tape

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READS:
            self._tape.refuse(f"Tensor.{func.__name__} reads values on the host")
        return func(*args, **(kwargs or {}))


class _Parts(TorchDispatchMode):
    """Checks for a tape the operators that one is made of."""

    def __init__(self, tape: "Tape") -> None:
        super().__init__()
        self._tape = tape

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._tape.checked(func, args, kwargs or {})


class Tape(TorchDispatchMode):
    """Keeps what runs within it. `reason` says why that cannot be run again; None if it can."""

    def __init__(self) -> None:
        super().__init__()
        self.reason: str | None = None
        self._reads = _Reads(self)
        self._entries: list[Entry] = []
        self._values: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def __enter__(self) -> "Tape":
        self._reads.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._reads.__exit__(*raised)

    def refuse(self, reason: str) -> None:
        """Keep no more. The first reason stays."""
        self.reason = self.reason or reason

    def _value(self, tensor: Tensor) -> Value:
        """The tensor's value; what no operator made was found."""
        if tensor not in self._values:
            self._values[tensor] = Value(tensor, is_found=True)
        return self._values[tensor]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = self.checked(func, args, kwargs)
        if self.reason is None:
            self._keep(func, args, kwargs, result)
        return result

    def checked(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What the operator gives. It is refused if it, or a part of it, would not do the same again."""
        is_gather = func is _INDEX and all(index.dtype in (torch.int32, torch.int64) for index in tensors_of(args[1]))
        if any(tag in func.tags for tag in _UNREPEATABLE) and not is_gather:
            self.refuse(f"{func} does not do the same again")
        may_draw = torch.Tag.nondeterministic_seeded in func.tags
        if any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values())):
            self.refuse(f"{func} draws from a generator")
        before = torch.get_rng_state() if may_draw else None
        with _Parts(self):
            result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            result = func(*args, **kwargs)
        if before is not None and not torch.equal(before, torch.get_rng_state()):
            self.refuse(f"{func} draws from a generator")
        return result

    def _keep(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
        is_sequence = isinstance(result, tuple | list)
        results = tuple(result) if is_sequence else (result,)
        inputs = list(tensors_of((*args, *kwargs.values())))
        if not all(isinstance(part, Tensor) for part in results):
            if inputs:
                self.refuse(f"{func} gives something else than tensors")
            return  # of no tensor, as torch.promote_types: the same every time
        # A schema may say that a result is a view where it is a copy, as of reshape, so its memory is asked.
        roots = {_address(tensor): self._value(tensor).root for tensor in inputs}
        given = with_tensors((*args, *kwargs.values()), self._value)
        is_constant = all(self._value(tensor).root.is_constant for tensor in inputs)
        written = list(_written(func, args, kwargs))
        for tensor in written:
            self._value(tensor).write()
        new: list[Value | None] = []
        for part in results:
            if part in self._values:
                new.append(None)
                continue
            root = roots.get(_address(part))
            self._values[part] = Value(part, root, is_constant=is_constant)
            new.append(self._values[part])
        self._entries.append(Entry(func, given[: len(args)], dict(zip(kwargs, given[len(args) :], strict=True)),
                                    tuple(new), is_sequence, bool(written)))

    @property
    def found(self) -> list[Tensor]:
        """What its operators take or write that they did not make; constants and numbers among it."""
        values = dict.fromkeys(value for entry in self._entries for value in entry.values)
        return [value.tensor for value in values if value.root.is_found and value.tensor is not None]

    def finish(self, result: T) -> tuple[list[Entry], T]:
        """What is to be run again, in order, and the result, in memory of its own that this writes."""
        assert self.reason is None, self.reason
        fixed: list[tuple[Tensor, Value]] = []

        def at_fixed_address(tensor: Tensor) -> Tensor:
            value = self._value(tensor)
            if value.is_kept:
                return tensor
            fixed.append((tensor.clone(), value))
            return fixed[-1][0]

        result = with_tensors(result, at_fixed_address)
        copies = [Entry(torch.ops.aten.copy_.default, (Value(into, is_found=True), value), {}, (None,), False, True)
                  for into, value in fixed]
        return [*(entry for entry in self._entries if entry.is_needed), *copies], result


def _address(tensor: Tensor) -> int:
    """Of a tensor's memory. One that has none, or that oneDNN packed, shares none with another."""
    if tensor.is_mkldnn or not tensor.numel():
        return id(tensor)
    return tensor.untyped_storage().data_ptr()


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """The arguments that an operator writes."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from tensors_of(args[place] if place < len(args) else kwargs.get(argument.name))
