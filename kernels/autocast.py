"""What PyTorch makes of the dtype of a product: autocast, and how float32 may be rounded."""

from typing import Any

import torch
from torch import Tensor


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """The dtype of products of such a tensor under autocast; None where that is not enabled."""
    kind = tensor.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return None


def float32_precision() -> dict[str, str]:
    """How products of float32 may be rounded, on a GPU and by oneDNN. torch.get_float32_matmul_precision raises where
    the two were set apart."""
    # Attributes that PyTorch gives these modules as they are imported.
    backends: Any = torch.backends
    return {"cuda": backends.cuda.matmul.fp32_precision, "mkldnn": backends.mkldnn.matmul.fp32_precision}
