"""A tape as one program: its operators, fused and compiled to C++ by PyTorch's inductor.

What the program reads and writes are its arguments, so that models of one shape share it: weights, memory of frames and
constants. An argument that is written must not overlap another one, or inductor would copy it whole in every step:
of memory that is written, as a KV store's, one argument stands for all views that overlap.
"""

import operator
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from ...kernels.case import parts_of
from .tape import Entry, Value

MOST_PROGRAMS = 32
MOST_BYTES_ON_DISK = 2 << 30

_programs: dict[Hashable, Callable[..., object]] = {}

# oneDNN's packed weights are tensors that inductor cannot take, so a program knows them by their number.
_packed_weights: ContextVar[Sequence[Tensor]] = ContextVar("packed_weights", default=())
_PACKED = torch.ops.mkldnn._linear_pointwise.default


# An operator that torch.library.custom_op wraps would take 15 microseconds more a call.
_library = torch.library.Library("quicksilver", "FRAGMENT")
_library.define("product_with_packed(Tensor x, int number, int width, Tensor? bias) -> Tensor")


def _product_with_packed(x: Tensor, number: int, width: int, bias_N: Tensor | None) -> Tensor:
    return _PACKED(x, _packed_weights.get()[number], bias_N, "none", [], "")


def _shape_of_product(x: Tensor, number: int, width: int, bias_N: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], width)


_library.impl("product_with_packed", _product_with_packed, "CPU")
_library.impl("product_with_packed", _shape_of_product, "Meta")


class CannotCompile(Exception):
    """Why a tape is not compiled."""


def compiled(entries: Sequence[Entry]) -> Callable[[], None]:
    """A program that does what the entries do in turn, but for the rounding of what it fuses; compiled unless one like
    it is there already, in this process or on disk. CannotCompile with the reason where that is not possible."""
    traced = _Traced.of(entries)
    program, arguments, packed = _program(traced), traced.arguments, traced.packed

    def run() -> None:
        token = _packed_weights.set(packed)
        try:
            program(*arguments)
        finally:
            _packed_weights.reset(token)

    return run


def _program(traced: "_Traced") -> Callable[..., object]:
    module = GraphModule({}, traced.graph)
    key = module.code, torch.get_num_threads(), tuple(
        [(tensor.shape, tensor.stride(), tensor.dtype, tensor.requires_grad) for tensor in traced.arguments])
    if key not in _programs:
        if len(_programs) >= MOST_PROGRAMS:
            raise CannotCompile(f"{MOST_PROGRAMS} programs are compiled, the most there may be")
        _check_disk()
        try:
            _programs[key] = _by_inductor(module, traced.arguments)
        except Exception as error:  # of a compiler that is missing or fails, a folder that cannot be written, inductor
            lines = str(error).strip().splitlines()
            raise CannotCompile(f"{type(error).__name__}: {lines[0] if lines else ''}") from error
    return _programs[key]


def _by_inductor(module: GraphModule, arguments: Sequence[Tensor]) -> Callable[..., object]:
    from torch._inductor import compile as compile_graph  # takes seconds to import

    # A shape environment of its own is what inductor's cache on disk asks for.
    with tracing(TracingContext(FakeTensorMode(shape_env=ShapeEnv()))):
        program = compile_graph(module, list(arguments), options={"cpp.threads": torch.get_num_threads()})
    assert callable(program)
    return program


def _check_disk() -> None:
    """CannotCompile where inductor's folder has grown too large."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    folder = Path(cache_dir())
    used = sum(entry.stat().st_size for root, _, names in os.walk(folder) for entry in (Path(root, n) for n in names)
               if entry.exists())
    if used > MOST_BYTES_ON_DISK:
        raise CannotCompile(f"{folder} holds more than {MOST_BYTES_ON_DISK >> 30} GiB of compiled programs")


@dataclass
class _Traced:
    """The entries as a graph, and what it is called with."""

    graph: Graph = field(default_factory=Graph)
    arguments: list[Tensor] = field(default_factory=list)
    packed: list[Tensor] = field(default_factory=list)
    _made: dict[int, Node] = field(default_factory=dict)
    _regions: "dict[int, _Region]" = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> "_Traced":
        traced = cls()
        kept = {id(value): value for entry in entries for value in entry.values if value.is_kept}
        for region in _regions([value for value in kept.values() if value.root.is_written]):
            traced._regions.update((id(value), region) for value in region.values)
        arguments = dict.fromkeys(part for entry in entries
                                  for part in parts_of((entry.args, tuple(entry.kwargs.values())), Value))
        for value in arguments:  # first, since a graph takes its arguments before anything else
            if value.is_kept and not _tensor(value).is_mkldnn:
                traced._argument(value)
        for entry in entries:
            traced._add(entry)
        traced.graph.output(())
        return traced

    def _argument(self, value: Value) -> None:
        region = self._regions.get(id(value))
        if region is None:
            self._made[id(value)] = self._placeholder(_tensor(value))
        elif region.node is None:
            region.node = self._placeholder(region.memory())

    def _placeholder(self, tensor: Tensor) -> Node:
        self.arguments.append(tensor)
        return self.graph.placeholder(f"argument{len(self.arguments)}")

    def _add(self, entry: Entry) -> None:
        if entry.operator is _PACKED:
            node = self._product_with_packed(entry)
        else:
            kwargs = {name: self._node(value) for name, value in entry.kwargs.items()}
            node = self.graph.call_function(entry.operator, tuple(map(self._node, entry.args)), kwargs)
        for place, value in enumerate(entry.results):
            if value is not None:
                self._made[id(value)] = (self.graph.call_function(operator.getitem, (node, place))
                                         if entry.is_sequence else node)

    def _product_with_packed(self, entry: Entry) -> Node:
        x, weight, bias = entry.args[:3]
        (product,) = entry.results
        assert isinstance(weight, Value)
        assert product is not None
        self.packed.append(_tensor(weight))
        arguments = self._node(x), len(self.packed) - 1, _tensor(weight).shape[0], self._node(bias)
        return self.graph.call_function(torch.ops.quicksilver.product_with_packed.default, arguments)

    def _node(self, value: Any) -> Any:
        if isinstance(value, tuple | list):
            return [self._node(part) for part in value]
        if not isinstance(value, Value):
            return value
        region = self._regions.get(id(value))
        return self._made[id(value)] if region is None else region.view(value, self.graph)


@dataclass
class _Region:
    """Memory that is written, from one address to another, and all that the graph sees of it."""

    first: int
    stop: int
    values: list[Value]
    node: Node | None = None

    @property
    def _whole(self) -> Tensor:
        """What the region is seen as in the program: a value that covers it, or numbers in a row."""
        of_all = (tensor for tensor in map(_tensor, self.values)
                  if tensor.is_contiguous() and _extent(tensor) == (self.first, self.stop))
        tensor = next(of_all, None)
        if tensor is not None:
            return tensor
        first = min(map(_tensor, self.values), key=Tensor.data_ptr)
        if any(tensor.dtype != first.dtype for tensor in map(_tensor, self.values)):
            raise CannotCompile("memory that is written is seen as several dtypes")
        return first.as_strided(((self.stop - self.first) // first.element_size(),), (1,))

    def memory(self) -> Tensor:
        """The region as memory that shares none with other tensors', as far as PyTorch knows."""
        return torch.from_dlpack(self._whole)

    def view(self, value: Value, graph: Graph) -> Node:
        """A view of the region, as it is when the program gets there."""
        assert self.node is not None
        tensor, whole = _tensor(value), self._whole
        if (tensor.shape, tensor.stride()) == (whole.shape, whole.stride()):
            return self.node
        offset = (tensor.data_ptr() - self.first) // tensor.element_size()
        return graph.call_function(torch.ops.aten.as_strided.default,
                                   (self.node, [*tensor.shape], [*tensor.stride()], offset))


def _regions(values: Sequence[Value]) -> Iterator[_Region]:
    """The values by memory: those that overlap are in one region."""
    region: _Region | None = None
    for value in sorted(values, key=lambda value: _extent(_tensor(value))):
        first, stop = _extent(_tensor(value))
        if region is not None and first < region.stop:
            region.stop = max(region.stop, stop)
            region.values.append(value)
            continue
        if region is not None:
            yield region
        region = _Region(first, stop, [value])
    if region is not None:
        yield region


def _extent(tensor: Tensor) -> tuple[int, int]:
    """The first address of a tensor and that after its last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + ((last + 1) * tensor.element_size() if tensor.numel() else 0)


def _tensor(value: Value) -> Tensor:
    assert value.tensor is not None
    return value.tensor
