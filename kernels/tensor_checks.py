"""Checks of a kernel's tensors.

Shapes and dtypes are part of a kernel's contract: every implementation refuses the same ones, with a ValueError. Layout
is an assumption about our own callers, which only the Triton kernels make: it is asserted.
"""

import torch
from torch import Tensor


def check_shape(name: str, tensor: Tensor | None, *shape: int) -> None:
    """Refuse a tensor of another shape; None, an argument left out, has any."""
    if tensor is not None and tensor.shape != shape:
        raise ValueError(f"{name} of shape {list(tensor.shape)}: must be {list(shape)}")


def check_rank(name: str, tensor: Tensor, rank: int) -> None:
    """Refuse a tensor of another number of dimensions."""
    if tensor.ndim != rank:
        raise ValueError(f"{name} of shape {list(tensor.shape)}: must have {rank} dimensions")


def check_dtype(name: str, tensor: Tensor | None, dtype: torch.dtype) -> None:
    """Refuse a tensor of another dtype; None, an argument left out, has any."""
    if tensor is not None and tensor.dtype != dtype:
        raise ValueError(f"{name} of {tensor.dtype}: must be {dtype}")


def assert_contiguous(**tensors: Tensor | None) -> None:
    """Each tensor is contiguous, or was left out."""
    for name, tensor in tensors.items():
        assert tensor is None or tensor.is_contiguous(), f"{name} with strides {tensor.stride()}: must be contiguous"


def assert_rows_contiguous(**tensors: Tensor | None) -> None:
    """The elements of each tensor's last dimension lie side by side."""
    for name, tensor in tensors.items():
        assert tensor is None or tensor.shape[-1] <= 1 or tensor.stride(-1) == 1, (
            f"{name} with strides {tensor.stride()}: its last dimension must be contiguous")
