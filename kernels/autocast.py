"""Autocast, as kernels and their PyTorch implementations ask for it."""

import torch
from torch import Tensor


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """The dtype of products of such a tensor under autocast; None where that is not enabled."""
    kind = tensor.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return None
