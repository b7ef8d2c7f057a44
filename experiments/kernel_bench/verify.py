"""The check before timing: a kernel's result on the Triton path against its reference in float64. It runs in a separate
process, interpreted if there is no GPU."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...kernels.case import Case, with_tensors
from ...kernels.dispatch import INTERPRETED, Implementation, named, recording, using
from ..harness.records import Json

# Relative root-mean-square errors that a correct kernel stays under. Each kernel's own tests are stricter.
TOLERANCES = {"float32": 5e-6, "float16": 1e-3, "bfloat16": 5e-3}
_SEED = 0


def verdict(case: Case, dtype_name: str, device_name: str, peer: Callable[..., Any] | None = None) -> Json:
    """Whether the kernel, or a peer of it, agrees with its reference: the largest relative root-mean-square error of
    its float outputs, and the number of differing integers, which must be 0."""
    torch.manual_seed(_SEED)
    inputs = case.inputs(getattr(torch, dtype_name), torch.device(device_name))
    with using(Implementation.TRITON if peer is None else None), recording() as ran, torch.no_grad():
        found = outputs((peer or case.run)(*copied(inputs)))
    expected, reference_dtype = _expected(case, inputs)
    error, num_differ = compared(found, expected)
    on_triton = {what for _, what in ran} == {Implementation.TRITON}
    path = ("interpreter" if INTERPRETED else "compiled") if on_triton else "PyTorch" if peer is None else "a peer"
    return {"error": error if math.isfinite(error) else None, "tolerance": TOLERANCES[dtype_name],
            "integers_differ": num_differ, "reference_dtype": reference_dtype,
            "ran": path, "kernels": named(ran),
            "passed": (on_triton or peer is not None) and error <= TOLERANCES[dtype_name] and num_differ == 0}


def _expected(case: Case, inputs: tuple[Any, ...]) -> tuple[list[Tensor], str]:
    """The reference's result in float64, or in float32 if the GPU's memory does not suffice."""
    with torch.no_grad():
        try:
            return outputs(case.reference(*copied(inputs, torch.float64))), "float64"
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return outputs(case.reference(*copied(inputs, torch.float32))), "float32"


def copied(values: tuple[Any, ...], dtype: torch.dtype | None = None) -> tuple[Any, ...]:
    """Copies of a case's arguments, floats in `dtype` if it is given: a kernel may write to its arguments."""
    return with_tensors(values, lambda tensor: tensor.to(dtype, copy=True) if dtype is not None and
                        tensor.dtype.is_floating_point else tensor.clone())


def outputs(result: Any) -> list[Tensor]:
    """The tensors that a case returned."""
    return [result] if isinstance(result, Tensor) else [value for value in result if value is not None]


def compared(found: list[Tensor], expected: list[Tensor]) -> tuple[float, int]:
    """The largest relative error of the float outputs, infinite if shapes, NaNs or infinities differ; and the number of
    differing integers."""
    if [one.shape for one in found] != [one.shape for one in expected]:
        return math.inf, 0
    error, num_differ = 0.0, 0
    for one, other in zip(found, expected, strict=True):
        if one.dtype.is_floating_point:
            error = max(error, _relative_error(one, other))
        else:
            num_differ += int((one != other.to(one.dtype)).sum())
    return error, num_differ


def _relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double(), expected.double()
    finite = expected.isfinite()
    if found.isnan().any() or not torch.equal(found[~finite], expected[~finite]):
        return math.inf
    found, expected = found[finite], expected[finite]
    error = float((found - expected).norm() / expected.norm().clamp(min=1e-30))
    return error if math.isfinite(error) else math.inf
