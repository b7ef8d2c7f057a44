"""A GPU rehearsed on a CPU: tensors put on the device refuse to meet those that stayed on the host, as CUDA's do.

    STRICT_DEVICE=1 python -m pytest tests/kernels tests/test_strict_device.py        (make strict)

Inside `rehearsal` a tensor on DEVICE is a DeviceTensor: it says of itself that it lies on a GPU, so that kernels
dispatch to Triton, which its interpreter runs. Refused, as torch and Triton refuse it there: a host tensor of one
dimension or more beside it as operand, index or output (a host tensor may index it, a copy may cross), a host tensor
of none except in arithmetic, a host tensor given to a Triton program, and numpy. What makes the host wait for a number
(bool, int, item, a mask as an index, ...) is kept in `reads`, and refused inside `captured`, as in a CUDA graph.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from triton.runtime import interpreter

ENABLED = os.environ.get("STRICT_DEVICE") == "1"
DEVICE = torch.device("cuda", 0)

_CROSSING = ("to", "cpu", "cuda")
_SHAPE_ONLY = ("expand_as", "view_as", "reshape_as")
_UNCHECKED = ("__set__", "backward", "grad", "_has_compatible_shallow_copy_type")
_FACTORIES = ("arange", "empty", "full", "linspace", "ones", "zeros", "tensor", "new_tensor")
_READS = ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__contains__", "__repr__", "__format__",
          "equal", "allclose", "is_nonzero", "nonzero", "argwhere", "masked_select", "unique", "unique_consecutive",
          "bincount")


class DeviceMixError(RuntimeError):
    """What a GPU would have refused."""


class DeviceTensor(Tensor):
    """A tensor that was put on DEVICE; its memory is the host's."""

    device = property(lambda self: DEVICE)  # pyright: ignore[reportAssignmentType]
    is_cuda = property(lambda self: True)  # pyright: ignore[reportAssignmentType]
    is_cpu = property(lambda self: False)  # pyright: ignore[reportAssignmentType]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        # What torch._C._disabled_torch_function_impl does, in words that torch.compile can trace.
        if torch.compiler.is_compiling():  # when the mode has not stepped aside
            with torch._C.DisableTorchFunction():
                return func(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    def get_device(self) -> int:
        return 0


class Rehearsal(TorchFunctionMode):
    """Every call of torch, with its rules. `reads` names those that made the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.capturing = False

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if torch.compiler.is_compiling():
            return func(*args, **(kwargs or {}))
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        tensors = [*_tensors(args), *_tensors(kwargs.values())]
        mine = [tensor for tensor in tensors if isinstance(tensor, DeviceTensor)]
        if len(mine) < len(tensors) and any(isinstance(tensor, FakeTensor) or tensor.is_meta for tensor in tensors
                                            if not isinstance(tensor, DeviceTensor)):
            return func(*args, **kwargs)
        if name in _CROSSING and tensors:
            return self._moved(name, *args, **kwargs)
        target = kwargs.get("device")
        if mine and "out_dtype" in kwargs:  # which a CPU's products do not have
            args = tuple(arg.to(kwargs["out_dtype"]) if isinstance(arg, Tensor) else arg for arg in args)
            del kwargs["out_dtype"]
        if mine and name != "__get__":  # of an attribute
            self._check(name, args, kwargs, tensors)
        if target is not None:
            kwargs["device"] = target if torch.device(target).type == "meta" else "cpu"
            if _is_device(target) and name in ("tensor", "as_tensor", "asarray"):
                self._read(f"{name} of host data")
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        lies_there = bool(mine) if target is None else _is_device(target)
        if name in _SHAPE_ONLY or name == "copy_":
            lies_there = isinstance(args[0], DeviceTensor)
        if not lies_there:
            return result
        return tree_map(_wrapped, result) if isinstance(result, (tuple, list, dict)) else _wrapped(result)

    def _check(self, name: str, args: tuple, kwargs: dict, tensors: Sequence[Tensor]) -> None:
        """Refuse what a GPU refuses, and note what it would wait for."""
        host = [tensor for tensor in tensors if not isinstance(tensor, DeviceTensor)]
        if name in ("numpy", "__array__", "__array_wrap__"):
            raise TypeError(f"can't convert {DEVICE} device type tensor to numpy")
        if name in _READS or (name in _FACTORIES and "like" not in name) or _reads_repeats(name, args, kwargs):
            self._read(name)
        if name in ("__getitem__", "__setitem__"):
            self._check_index(name, *args)
        elif name == "copy_":
            if host:
                self._read("a copy between host and device")
        elif host and name not in (*_SHAPE_ONLY, *_UNCHECKED) and (
                any(tensor.ndim for tensor in host) or not _is_pointwise(name)):
            raise DeviceMixError(f"{name}: expected all tensors to be on the same device, found {DEVICE} and cpu")

    def _check_index(self, name: str, target: Tensor, index: Any, value: Any = None) -> None:
        indices = list(_tensors((index,)))
        lies_there, single = isinstance(target, DeviceTensor), lambda leaf: leaf.ndim == 0 and leaf.dtype != torch.bool
        for leaf in indices:
            if isinstance(leaf, DeviceTensor):
                if single(leaf) or leaf.dtype in (torch.bool, torch.uint8):
                    self._read("an index")
                if not lies_there and not single(leaf):
                    raise DeviceMixError(f"{name}: a host tensor is indexed by one on {DEVICE}")
            elif lies_there and not single(leaf):
                self._read("an index from the host")
        if isinstance(value, Tensor) and isinstance(value, DeviceTensor) != lies_there and value.ndim:
            if not all(single(leaf) for leaf in indices):
                raise DeviceMixError(f"{name}: expected the values on the device of what they are put into")
            self._read("a copy between host and device")

    def _read(self, what: str) -> None:
        self.reads.append(what)
        if self.capturing:
            raise DeviceMixError(f"{what}: the host waits for the device, which a CUDA graph cannot capture")

    def _moved(self, name: str, source: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
        lies_there, dtype = isinstance(source, DeviceTensor), source.dtype
        goes_there = name == "cuda" if name != "to" else lies_there
        if name == "to" and args and isinstance(args[0], Tensor):
            goes_there, dtype = isinstance(args[0], DeviceTensor), args[0].dtype
        elif name == "to":
            device, asked, *_ = torch._C._nn._parse_to(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
            goes_there, dtype = lies_there if device is None else _is_device(device), asked or dtype
            if device is not None and device.type == "meta":
                return source.to("meta", dtype)
        if lies_there != goes_there:
            self._read("a copy between host and device")
        moved = source.to(dtype, copy=copy or lies_there != goes_there)
        return _wrapped(moved) if goes_there else moved.as_subclass(Tensor) if lies_there else moved


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Those among a call's arguments, and in their lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())


def _is_device(device: Any) -> bool:
    return torch.device(device).type == DEVICE.type


def _wrapped(value: Any) -> Any:
    if type(value) not in (Tensor, torch.nn.Parameter):
        return value
    if value.requires_grad and value.is_leaf:  # which it stays
        return value.detach().as_subclass(DeviceTensor).requires_grad_()
    return value.as_subclass(DeviceTensor)


def _reads_repeats(name: str, args: tuple, kwargs: dict) -> bool:
    """Whether the size of the result is a number on the device."""
    repeats = kwargs.get("repeats", args[1] if len(args) > 1 else None)
    return name == "repeat_interleave" and isinstance(repeats, Tensor) and "output_size" not in kwargs


@cache
def _is_pointwise(name: str) -> bool:
    """Whether torch computes it element by element, where a host number is as good as one on the device."""
    plain = name.strip("_")
    operators = [getattr(torch.ops.aten, candidate, None) for candidate in (name, plain, plain[1:])]
    return any(torch.Tag.pointwise in getattr(operator, overload).tags for operator in operators if operator is not None
               for overload in operator.overloads())


def _launch(execute: Any) -> Any:
    """The interpreter's call of a program, which takes no host tensor, as Triton's launcher on a GPU does not."""

    def launch(self: Any, *arguments: Any, **options: Any) -> None:
        tensors = [value for value in (*arguments, *options.values()) if isinstance(value, Tensor)]
        for place, value in enumerate(arguments):
            if isinstance(value, Tensor) and not isinstance(value, DeviceTensor):
                raise ValueError(f"Pointer argument (at {place}) cannot be accessed from Triton (cpu tensor?)")
        assert tensors, "a program without tensors"
        with torch._C.DisableTorchFunction():
            execute(self, *(value.as_subclass(Tensor) if isinstance(value, DeviceTensor) else value
                            for value in arguments), **options)

    return launch


def _backward(apply: Any, mode: Rehearsal) -> Any:
    """A Python function's backward, which gets gradients on the device that its tensors lie on and is rehearsed too."""

    def wrapped(self: Any, *gradients: Any) -> Any:
        there = any(isinstance(tensor, DeviceTensor) for tensor in self.saved_tensors)
        with mode:
            return apply(self, *(map(_wrapped, gradients) if there else gradients))

    return wrapped


@contextmanager
def rehearsal() -> Iterator[Rehearsal]:
    """Until it ends, DEVICE may be named, and whatever lies there keeps apart from the host."""
    mode, overwrites = Rehearsal(), torch.__future__.get_overwrite_module_params_on_conversion()
    patches = [(interpreter.GridExecutor, "__call__", _launch(interpreter.GridExecutor.__call__)),
               (BackwardCFunction, "apply", _backward(BackwardCFunction.apply, mode)),
               (torch.cuda, "device_of", lambda tensor: nullcontext()),
               *((torch, name, _of_the_host(getattr(torch, name)))
                 for name in ("autocast", "is_autocast_enabled", "get_autocast_dtype"))]
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a module's .to must not keep host parameters
    try:
        with ExitStack() as stack:
            for owner, name, replacement in patches:
                stack.enter_context(patch.object(owner, name, replacement))
            yield stack.enter_context(mode)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)


def _of_the_host(function: Any) -> Any:
    """A function of autocast, which on DEVICE is the host's."""
    return lambda kind, *args, **kwargs: function("cpu" if kind == DEVICE.type else kind, *args, **kwargs)


@contextmanager
def captured(mode: Rehearsal) -> Iterator[None]:
    """Refuse whatever would make the host wait, as where a CUDA graph is captured."""
    mode.capturing = True
    try:
        yield
    finally:
        mode.capturing = False
