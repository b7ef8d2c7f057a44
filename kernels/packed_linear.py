"""Products on a CPU with a weight that oneDNN has packed: in the layout that its product reads, of which it can be had
back to the bit. It is a second copy, or the only one.

F.linear's time over the packed product's, on two cores, for weights of 1 to 12 MB and so many rows:

                                1             2             16            36            128           576
    Intel, float32, AVX-512     0.4 to 0.8    0.4 to 0.8    1.4 to 2.9    1.2 to 2.0    1.0 to 1.2
    Intel, float32, AVX2        0.5 to 0.8    1.4 to 1.6    1.0 to 1.2    1.0 to 1.1    1.0
    Intel, bfloat16, AMX        1.6 to 1.9    1.5 to 1.9    1.4 to 1.8    1.4 to 1.7    1.0 to 1.2
    AMD, float32, AVX2          0.5 to 0.9    1.6 to 4.4    1.2 to 2.0    1.0 to 1.8    0.9 to 1.3    0.8 to 1.1
      the same from 6 MB on     1.3 to 2.7
      read from memory          1.6 to 2.7    2.0 to 4.2
    AMD, float32, AVX-512       1.1 to 2.6    1.8 to 5.8    1.4 to 3.3    1.4 to 2.2    1.2 to 1.8    1.1 to 1.3
      read from memory          1.0 to 2.5    1.8 to 5.3    1.6 to 2.2    1.4 to 2.5    1.2 to 1.9    1.1 to 1.6
    AMD, bfloat16, AVX-512      1.6 to 3.4    1.5 to 2.6    1.2 to 1.5    1.1 to 1.3    1.0 to 1.1    1.0 to 1.1

"Read from memory" are weights of which 24 to 128 MB take turns, as those of a model do; there 0.6 MB gain too (AVX2, 1
row: 0.8 to 1.1, 2: 1.5 to 1.8; AVX-512: 1.4 and 2.1). Smaller weights of float32 that stay in a cache lose. F.linear
multiplies float32 by MKL, which runs older code on other vendors' processors.
"""

import sys
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakTensorKeyDictionary

from .case import Case, Cost
from .checks import integer_field
from .dispatch import Implementation, note, requested

# From how many bytes of the weight on packing pays.
LEAST_BYTES = {torch.float32: 1 << 20, torch.bfloat16: 1 << 16}
# And for a product of one row by AVX2, where the weights stay in a cache.
_LEAST_BYTES_OF_ONE_ROW = 6 << 20
# Weights of a model that together take more are read from memory, and those of float32 pay from so many bytes on.
_MOST_BYTES_IN_CACHE = 16 << 20
_LEAST_BYTES_FROM_MEMORY = 1 << 19
# The number of rows that oneDNN picks the layout for. For one row it leaves the weight as it lies.
_ROWS_OF_LAYOUT = 16


class Algorithm(Enum):
    """How a linear layer multiplied other than by F.linear, in the words of records."""

    PACKED = "weights packed by oneDNN"


@dataclass(frozen=True)
class PackedWeight:
    """A packed copy of a weight [N, K] for products of `rows` rows. `version` and `storage` are the weight's then; no
    storage is that of a weight that is held packed alone."""

    packed: Tensor
    rows: range
    version: int
    storage: StorageWeakRef | None
    num_bytes: int

    @classmethod
    def of(cls, weight_NK: Tensor, model_bytes: int = 0) -> "PackedWeight | None":
        """The weight packed; None where that cannot be done or does not pay. `model_bytes` are those of all weights
        that take turns with it, itself included."""
        if not pays(weight_NK, model_bytes) or weight_NK.is_inference():  # which would not tell that it was changed
            return None
        try:
            packed = packed_weight(weight_NK.detach())
        except RuntimeError:  # bfloat16 on a processor without its instructions
            return None
        rows = _paying_rows(weight_NK, model_bytes)
        return cls(packed, rows, weight_NK._version, StorageWeakRef(weight_NK.untyped_storage()), weight_NK.nbytes)

    @property
    def identity(self) -> int:
        """A number that no other one has for as long as this one's copy is held."""
        return id(self.packed)

    def is_of(self, weight_NK: Tensor) -> bool:
        """Whether the weight is still what was packed. A change through `weight.data` is not seen."""
        if self.storage is None:
            return True
        # The weak reference keeps the storage's identity, as an address would not be kept, from being given again.
        return self.version == weight_NK._version and self.storage.cdata == weight_NK.untyped_storage()._cdata

    def alone(self) -> "PackedWeight":
        """As the only copy, which multiplies any number of rows."""
        return replace(self, rows=range(sys.maxsize), storage=None)

    def dense(self) -> Tensor:
        """The weight as it was, to the bit: float [N, K]."""
        with torch.inference_mode(False), torch.no_grad():
            return self.packed.to_dense(self.packed.dtype)


def pays_alone(weight_NK: Tensor, model_bytes: int) -> bool:
    """Whether packing pays for one row too, and so for decoding: then the weight itself need not be kept. Products of
    128 rows and more take up to 1.2 times as long by AVX2."""
    return pays(weight_NK, model_bytes) and 1 in _paying_rows(weight_NK, model_bytes)


def pays(weight_NK: Tensor, model_bytes: int = 0) -> bool:
    """Whether a packed weight would be faster, for some number of rows, on this processor."""
    least_bytes = LEAST_BYTES.get(weight_NK.dtype)
    if least_bytes is None or weight_NK.device.type != "cpu" or not _HAS_OPERATOR:
        return False
    if _is_read_from_memory(model_bytes):
        least_bytes = min(least_bytes, _LEAST_BYTES_FROM_MEMORY)
    return weight_NK.nbytes >= least_bytes and bool(_paying_rows(weight_NK, model_bytes))


def has_avx512() -> bool:
    """Whether products of float32 run in AVX-512."""
    return _HAS_AVX512


def few_rows_pay(dtype: torch.dtype, model_bytes: int) -> bool:
    """Whether large weights of the dtype pay from one row on, on this processor, in a model of so many bytes."""
    if not _HAS_OPERATOR or dtype != torch.float32:
        return _HAS_OPERATOR and dtype in LEAST_BYTES
    return not _IS_INTEL and (_HAS_AVX512 or _is_read_from_memory(model_bytes))


def packed_weight(weight_NK: Tensor) -> Tensor:
    """A copy in oneDNN's layout. RuntimeError on a processor without the dtype's instructions."""
    return torch.ops.mkldnn._reorder_linear_weight(weight_NK, _ROWS_OF_LAYOUT)


def packed_product(x: Tensor, packed: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """x W^T + b of a weight that `_reorder_linear_weight` packed."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias_N, "none", [], "")


def _paying_rows(weight_NK: Tensor, model_bytes: int) -> range:
    """For how many rows packing a weight pays on this processor."""
    if weight_NK.dtype != torch.float32 or (_HAS_AVX512 and not _IS_INTEL):
        return range(1, sys.maxsize)
    if _IS_INTEL:
        return range(16, 128) if _HAS_AVX512 else range(0)
    least_bytes = LEAST_BYTES[torch.float32] if _is_read_from_memory(model_bytes) else _LEAST_BYTES_OF_ONE_ROW
    return range(1 if weight_NK.nbytes >= least_bytes else 2, 128)


def _is_read_from_memory(model_bytes: int) -> bool:
    """Measured on AMD alone."""
    return model_bytes > _MOST_BYTES_IN_CACHE and not _IS_INTEL


_HAS_OPERATOR = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
_HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
_CPUINFO = Path("/proc/cpuinfo")
_IS_INTEL = _CPUINFO.exists() and "GenuineIntel" in _CPUINFO.read_text()


def linear(x: Tensor, weight_NK: Tensor, bias_N: Tensor | None, packed: PackedWeight | None) -> Tensor:
    """x W^T + b, float [..., N] of x [..., K]. The packed weight is taken for as many rows as pay, where no gradient is
    wanted, autocast does not ask for another dtype, `kernels` is not reference, and the weight is unchanged."""
    if packed is None or not _serves(packed, x, weight_NK):
        return F.linear(x, weight_NK, bias_N)
    note("linear", Implementation.CPU)
    note("linear", Algorithm.PACKED)
    return packed_product(x, packed.packed, bias_N)


def _serves(packed: PackedWeight, x: Tensor, weight_NK: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    is_asked_for = requested() is not Implementation.REFERENCE and x.numel() // x.shape[-1] in packed.rows
    return is_asked_for and x.dtype == packed.packed.dtype and packed.is_of(weight_NK)


_packed_for_cases: Any = WeakTensorKeyDictionary()


def _packed_once(x: Tensor, weight_NK: Tensor) -> Tensor:
    """The product by a packed weight, which is packed when it is first seen, as one of a model that no cache holds."""
    if weight_NK not in _packed_for_cases:
        _packed_for_cases[weight_NK] = PackedWeight.of(weight_NK, _MOST_BYTES_IN_CACHE + 1)
    return linear(x, weight_NK, None, _packed_for_cases[weight_NK])


@dataclass(frozen=True)
class LinearCase(Case):
    """`rows` positions of `width` to `outputs` numbers."""

    rows: int
    width: int
    outputs: int
    run = staticmethod(_packed_once)
    reference = staticmethod(F.linear)

    def __post_init__(self) -> None:
        for name in ("rows", "width", "outputs"):
            integer_field(self, name)

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        x = torch.randn(self.rows, self.width, dtype=dtype, device=device)
        return x, torch.randn(self.outputs, self.width, dtype=dtype, device=device).mul_(self.width**-0.5)

    def cost(self, dtype: torch.dtype) -> Cost:
        numbers = self.width * (self.rows + self.outputs) + self.rows * self.outputs
        return Cost(numbers * dtype.itemsize, 2 * self.rows * self.width * self.outputs)
