"""The one comparison that every kernel's tests share: Triton against float64, under the conditions that catch mistakes.

`run` executes a public function on the Triton path (compiled where a GPU is, interpreted elsewhere) with every tensor,
input or output, between guards, outputs poisoned with NaN, and, interpreted, once more with the programs of a grid in
another order: the result must be the same bits.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from quicksilver.kernels.case import tensors_of, with_tensors
from quicksilver.kernels.dispatch import INTERPRETED, Implementation, recording, using
from torch import Tensor
from triton.runtime import interpreter

from .. import strict_device

DEVICE = strict_device.DEVICE if strict_device.ENABLED else torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Relative root-mean-square errors against float64.
PRODUCT = {torch.float32: 5e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}
POINTWISE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}
_GUARD = 64  # elements on either side
_real_empty = torch.empty


class Guarded:
    """Buffers between guards that no kernel may touch."""

    def __init__(self) -> None:
        self._buffers: list[tuple[Tensor, Tensor]] = []

    def _buffer(self, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        buffer = _real_empty(size + 2 * _GUARD, dtype=dtype, device=device)
        # Reading a guard spoils a float result; an integer far outside every range spoils an address.
        buffer.fill_(math.nan if dtype.is_floating_point else (True if dtype == torch.bool else 2**30 + 12345))
        self._buffers.append((buffer, buffer.clone()))
        return buffer

    def copy(self, tensor: Tensor) -> Tensor:
        """The tensor between guards, with its own strides and with the alignment of its offset."""
        size = 1 + sum((extent - 1) * stride for extent, stride in zip(tensor.shape, tensor.stride(), strict=True))
        size = size if tensor.numel() else 0
        shift = int(tensor.storage_offset()) % 16
        buffer = self._buffer(size + shift, tensor.dtype, tensor.device)
        # The whole stretch of memory, since a tensor may be expanded, and what lies between its elements counts too.
        buffer[_GUARD + shift : _GUARD + shift + size] = tensor.as_strided((size,), (1,))
        return buffer.as_strided(tensor.shape, tensor.stride(), _GUARD + shift)

    def empty(self, *size: Any, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        """What torch.empty gives, poisoned and between guards."""
        shape = tuple(size[0]) if size and isinstance(size[0], Sequence) else size
        numel = math.prod(shape)
        buffer = self._buffer(numel, dtype or torch.get_default_dtype(), torch.device(device or "cpu"))
        return buffer[_GUARD : _GUARD + numel].view(shape)

    def check(self) -> None:
        for buffer, original in self._buffers:
            for part in (slice(None, _GUARD), slice(len(buffer) - _GUARD, None)):
                assert torch.equal(_bits(buffer[part]), _bits(original[part])), "a kernel wrote outside a buffer"


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


@contextmanager
def guarded() -> Iterator[Guarded]:
    """Poison what torch.empty gives; on leaving, check that nothing was written outside a buffer."""
    guards = Guarded()
    torch.empty = guards.empty
    try:
        yield guards
    finally:
        torch.empty = _real_empty
    guards.check()


@contextmanager
def _programs_reversed() -> Iterator[None]:
    """Let the interpreter run the programs of a grid from the last to the first."""
    builder: Any = interpreter.interpreter_builder
    set_index = type(builder).set_grid_idx

    def mirrored(self: Any, x: int, y: int, z: int) -> None:
        last = [extent - 1 for extent in self.grid_dim]
        set_index(self, last[0] - x, last[1] - y, last[2] - z)

    type(builder).set_grid_idx = mirrored
    try:
        yield
    finally:
        type(builder).set_grid_idx = set_index


def run(function: Callable[..., Any], *arguments: Any) -> tuple[list[Tensor], list[Any]]:
    """The outputs of a public function on the Triton path, and the arguments as it left copies of them, on the host.

    The function must dispatch at least once, and only to Triton. Its arguments are put on DEVICE, as are the tensors
    in those that are dataclasses."""
    outputs, left = _run_once(function, arguments)
    if INTERPRETED:
        with _programs_reversed():
            again, left_again = _run_once(function, arguments)
    else:
        again, left_again = _run_once(function, arguments)
    for one, other in zip([*outputs, *tensors_of(left)], [*again, *tensors_of(left_again)], strict=True):
        assert torch.equal(_bits(one), _bits(other)), "the order of programs changed the result"
    return outputs, left


def _run_once(function: Callable[..., Any], arguments: Sequence[Any]) -> tuple[list[Tensor], list[Any]]:
    with guarded() as guards:
        copies = with_tensors(list(arguments), lambda tensor: guards.copy(on_device(tensor)))
        with using(Implementation.TRITON), recording() as ran:
            result = function(*copies)
    assert ran, "no kernel was asked for"
    assert {implementation for _, implementation in ran} == {Implementation.TRITON}, ran
    return [output.cpu() for output in tensors_of(result)], with_tensors(copies, Tensor.cpu)


def put(implementation: Implementation, *values: Any) -> list[Any]:
    """The values, or copies with their tensors on DEVICE, where Triton is to read them."""
    return with_tensors(list(values), on_device) if implementation is Implementation.TRITON else list(values)


def on_device(tensor: Tensor) -> Tensor:
    """The tensor on DEVICE with its strides and offset kept."""
    if tensor.device.type == DEVICE.type:
        return tensor
    storage = tensor.as_strided((tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0).to(DEVICE)
    return storage.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def widened(values: Sequence[Any]) -> list[Any]:
    """Arguments with every float tensor in float64, on the CPU: what a reference is given."""
    return with_tensors(list(values), lambda tensor: tensor.cpu().double() if tensor.dtype.is_floating_point else
                        tensor.cpu())


def rel_rms(found: Tensor, expected: Tensor) -> float:
    """||found - expected|| / ||expected||, in float64."""
    error = (found.cpu().double() - expected.cpu().double()).norm()
    return float(error / expected.cpu().double().norm().clamp(min=1e-30))


def check(function: Callable[..., Any], reference: Callable[..., Any], arguments: Sequence[Any],
          tolerance: dict[torch.dtype, float]) -> list[Tensor]:
    """Run the function on the Triton path and hold its float outputs against the reference in float64, integer outputs
    exactly. The dtype of the first float argument picks the tolerance."""
    dtype = next(value.dtype for value in arguments if isinstance(value, Tensor) and value.dtype.is_floating_point)
    outputs, _ = run(function, *arguments)
    expected = reference(*widened(arguments))
    for found, wanted in zip(outputs, tensors_of(expected), strict=True):
        assert found.shape == wanted.shape
        if not found.dtype.is_floating_point:
            assert torch.equal(found.cpu(), wanted.to(found.dtype))
            continue
        assert not found.isnan().any(), "NaN in a result"
        error = rel_rms(found, wanted)
        assert error <= tolerance[dtype], f"relative error {error:.2e} over {tolerance[dtype]:.0e}"
    return outputs


def strided_variants(tensor: Tensor) -> dict[str, Tensor]:
    """The same values laid out otherwise: a transposed layout (2 dimensions and more), a slice of something wider, and
    an offset of one element, which breaks 16-byte alignment."""
    filling = math.nan if tensor.dtype.is_floating_point else 1
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1] + 1), filling, dtype=tensor.dtype)
    sliced = wide[..., 1::2]
    sliced.copy_(tensor)
    flat = torch.full((tensor.numel() + 1,), filling, dtype=tensor.dtype)
    offset = flat[1:].view(tensor.shape)
    offset.copy_(tensor)
    transposed = tensor.transpose(-1, -2).contiguous().transpose(-1, -2) if tensor.ndim > 1 else tensor
    return {"transposed": transposed, "sliced": sliced, "offset": offset}
