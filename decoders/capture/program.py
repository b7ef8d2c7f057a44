"""A tape as one program: its operators, fused and compiled to C++ by PyTorch's inductor.

What the program reads and writes are its arguments, so that models of one shape share it: weights, memory of frames and
constants. An argument that is written must not overlap another one, or inductor would copy it whole in every step:
of memory that is written, as a KV store's, one argument stands for all views that overlap.
"""

import operator
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node

from ...kernels.case import parts_of
from .tape import Entry, Value

MOST_BYTES_ON_DISK = 2 << 30
MOST_OF_A_DECODER = 32
_MOST_PROGRAMS = 64

# The programs used last, or why there is none.
_programs: dict[Hashable, Callable[..., object] | str] = {}

# oneDNN's packed weights are tensors that inductor cannot take, so a program knows them by their number.
_packed_weights: ContextVar[Sequence[Tensor]] = ContextVar("packed_weights", default=())
_PACKED = (torch.ops.mkldnn._linear_pointwise.default if hasattr(torch.ops.mkldnn, "_linear_pointwise") else None)
_PLAIN = "none", [], ""  # nothing is done with a product but to add the bias

# An operator that torch.library.custom_op wraps would take 15 microseconds more a call.
_library = torch.library.Library("quicksilver", "FRAGMENT")
_library.define("product_with_packed(Tensor x, int number, int width, Tensor? bias) -> Tensor")


def _product_with_packed(x: Tensor, number: int, width: int, bias_N: Tensor | None) -> Tensor:
    assert _PACKED is not None
    return _PACKED(x, _packed_weights.get()[number], bias_N, *_PLAIN)


def _shape_of_product(x: Tensor, number: int, width: int, bias_N: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], width)


_library.impl("product_with_packed", _product_with_packed, "CPU")
_library.impl("product_with_packed", _shape_of_product, "Meta")


class CannotCompile(Exception):
    """Why a tape is not compiled."""


def compiled(entries: Sequence[Entry], own: set[Hashable] | None = None) -> Callable[[], None]:
    """A program that does what the entries do in turn, but for the rounding of what it fuses; compiled unless one like
    it is there already, in this process or on disk. CannotCompile with the reason where that is not possible: without a
    compiler, with a folder that cannot be written, or where inductor fails. `own` are a decoder's programs, to which
    it is added, up to MOST_OF_A_DECODER."""
    try:
        traced = _Traced.of(entries)
        program = _program(traced, set() if own is None else own)
    except CannotCompile:
        raise
    except Exception as error:
        raise CannotCompile(first_line(error)) from error
    arguments, packed = traced.arguments, traced.packed

    def run() -> None:
        token = _packed_weights.set(packed)
        try:
            program(*arguments)
        finally:
            _packed_weights.reset(token)

    return run


def first_line(error: Exception) -> str:
    """An error as the reason in a record."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _program(traced: "_Traced", own: set[Hashable]) -> Callable[..., object]:
    module = GraphModule({}, traced.graph)
    key = module.code, torch.get_num_threads(), tuple(
        [(tensor.shape, tensor.stride(), tensor.dtype, tensor.requires_grad) for tensor in traced.arguments])
    if key not in own and len(own) == MOST_OF_A_DECODER:
        raise CannotCompile(f"{MOST_OF_A_DECODER} programs are compiled, the most there may be")
    found = _programs.pop(key, None)
    if found is None:
        if _disk_is_full():
            raise CannotCompile(f"inductor's folder holds more than {MOST_BYTES_ON_DISK >> 30} GiB of programs")
        try:
            found = _by_inductor(module, traced.arguments)
        except Exception as error:
            found = first_line(error)  # not the error, which would keep what it met
    _programs[key] = found  # now the last
    if len(_programs) > _MOST_PROGRAMS:
        del _programs[next(iter(_programs))]
    if isinstance(found, str):
        raise CannotCompile(found)
    own.add(key)
    return found


def _by_inductor(module: GraphModule, arguments: Sequence[Tensor]) -> Callable[..., object]:
    from torch._inductor.compile_fx import compile_fx  # all take seconds to import
    from torch._inductor.cpu_vec_isa import pick_vec_isa
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # Inductor's cache on disk asks for a shape environment, though every shape is fixed. It does not ask for how many
    # numbers the processor's vectors are written, and would run another processor's programs past their memory.
    config: Any = torch.compiler.config
    tag = f"{config.cache_key_tag} {pick_vec_isa()}"
    with tracing(TracingContext(FakeTensorMode(shape_env=ShapeEnv()))), config.patch(cache_key_tag=tag):
        program = compile_fx(module, arguments, ignore_shape_env=True, config_patches={
            "cpp.threads": torch.get_num_threads(), "size_asserts": False})
    assert callable(program)
    return program


@cache
def _disk_is_full() -> bool:
    """Whether inductor's folder had grown too large when the first program was to be compiled."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    used = 0
    for root, _, names in os.walk(cache_dir()):
        for name in names:
            with suppress(OSError):  # another process may tidy up
                used += os.stat(os.path.join(root, name)).st_size
    return used > MOST_BYTES_ON_DISK


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
        for region in _written_regions([value for value in kept.values() if not _tensor(value).is_mkldnn]):
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
        if _PACKED is not None and entry.operator is _PACKED:
            node = self._product_with_packed(entry)
        else:
            kwargs = {name: self._node(value) for name, value in entry.kwargs.items()}
            node = self.graph.call_function(entry.operator, tuple(map(self._node, entry.args)), kwargs)
        for place, value in enumerate(entry.results):
            if value is not None:
                self._made[id(value)] = (self.graph.call_function(operator.getitem, (node, place))
                                         if entry.is_sequence else node)

    def _product_with_packed(self, entry: Entry) -> Node:
        (x, weight, bias, *rest), (product,) = entry.args, entry.results
        if tuple(rest) != _PLAIN or entry.kwargs:
            raise CannotCompile(f"{entry.operator} with {rest}: more than a product")
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

    @cached_property
    def _whole(self) -> Tensor:
        """What the region is seen as in the program: a value that covers it, or numbers in a row."""
        if len({tensor.dtype for tensor in map(_tensor, self.values)}) > 1:
            raise CannotCompile("memory that is written is seen as several dtypes")
        of_all = (tensor for tensor in map(_tensor, self.values)
                  if tensor.is_contiguous() and _extent(tensor) == (self.first, self.stop))
        tensor = next(of_all, None)
        if tensor is not None:
            return tensor
        first = min(map(_tensor, self.values), key=Tensor.data_ptr)
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


def _written_regions(values: Sequence[Value]) -> Iterator[_Region]:
    """The memory that is written, with all values that lie there, whether or not they are written themselves."""
    regions: list[_Region] = []
    for value in sorted(values, key=lambda value: _extent(_tensor(value))):
        first, stop = _extent(_tensor(value))
        if regions and first < regions[-1].stop:
            regions[-1].stop = max(regions[-1].stop, stop)
            regions[-1].values.append(value)
        else:
            regions.append(_Region(first, stop, [value]))
    return (region for region in regions if any(value.root.is_written for value in region.values))


def _extent(tensor: Tensor) -> tuple[int, int]:
    """The first address of a tensor and that after its last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + ((last + 1) * tensor.element_size() if tensor.numel() else 0)


def _tensor(value: Value) -> Tensor:
    assert value.tensor is not None
    return value.tensor
