"""A mixture's experts on a CPU with weights that oneDNN has packed: a second copy of each expert's matrices.

The unpacked experts' time (moe_experts_cpu) over the packed ones', for a whole call on two cores of an AMD processor,
by the bytes of one expert and so many rows, each of which draws its 2 to 8 experts of 8 to 64 at random:

                                         1             4             16            36            128           576
    float32, AVX-512, 0.75 to 6 MB   1.0 to 1.5    1.3 to 1.9    1.3 to 2.1    1.3 to 2.0    1.0 to 1.6    0.8 to 1.2
      0.1 to 0.4 MB                  0.5 to 1.0    0.6 to 1.1    0.6 to 1.2    0.5 to 0.9    0.4 to 0.9
    float32, AVX2, 1.5 to 6 MB       1.3 to 1.5    1.4 to 1.8    1.8 to 1.9    1.4 to 2.0    1.1 to 1.5    0.9 to 1.1
      0.75 to 0.9 MB                 1.0 to 1.2        1.2       1.2 to 1.3        1.1           0.9
    bfloat16, AVX-512, 0.4 to 3 MB   1.2 to 1.4    1.1 to 1.4    1.1 to 1.4    1.1 to 1.5    1.0 to 1.35   1.0 to 1.1
      0.06 to 0.2 MB                 1.0 to 1.2    1.1 to 1.2    1.0 to 1.1    0.9 to 1.1    0.8 to 1.1    0.5 to 0.9

Weights of 20 MB and more took turns, as those of a model do. A call of oneDNN's takes some 13 microseconds, which is
what small experts of float32 lose. Intel's processors are not measured: there float32 is not packed, and bfloat16 as
packed_linear's table says of its products. Where other processes take the cores, few rows lose: a packed product of one
row waits for both cores.
"""

from dataclasses import dataclass, field
from itertools import count
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from . import moe_experts
from .dispatch import Implementation, note, requested
from .moe_experts_cpu import one_row, sorted_rows
from .packed_linear import Algorithm, few_rows_pay, has_avx512, packed_product, packed_weight

# From how many bytes an expert on packing pays, gate, up and down together.
LEAST_BYTES = {torch.float32: 3 << 18, torch.bfloat16: 3 << 17}
_LEAST_BYTES_BY_AVX2 = 3 << 19
# And for fewer rows an expert on average.
MANY_ROWS = 64


@dataclass(frozen=True, eq=False)
class PackedExperts:
    """Packed copies of gate_up_XGE and down_XEM, by expert. `versions` and `storages` are the weights' then. No other
    copies of this process have the `number`; `handle`, int64 [1], holds it for an operator."""

    gate_up_X: list[Tensor]
    down_X: list[Tensor]
    versions: tuple[int, int]
    storages: tuple[StorageWeakRef, StorageWeakRef]
    num_bytes: int
    number: int = field(default_factory=count().__next__)
    handle: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "handle", torch.tensor([self.number]))
        _held[self.number] = self

    @classmethod
    def of(cls, gate_up_XGE: Tensor, down_XEM: Tensor, model_bytes: int = 0) -> "PackedExperts | None":
        """The weights packed; None where that cannot be done or does not pay. `model_bytes` are those of all weights
        that take turns with these, themselves included."""
        weights = gate_up_XGE, down_XEM
        if not pays(*weights, model_bytes) or any(weight.is_inference() for weight in weights):
            return None
        try:
            gate_up_X, down_X = ([packed_weight(matrix) for matrix in weight.detach()] for weight in weights)
        except RuntimeError:  # bfloat16 on a processor without its instructions
            return None
        return cls(gate_up_X, down_X, (gate_up_XGE._version, down_XEM._version),
                   (StorageWeakRef(gate_up_XGE.untyped_storage()), StorageWeakRef(down_XEM.untyped_storage())),
                   gate_up_XGE.nbytes + down_XEM.nbytes)

    def are_of(self, gate_up_XGE: Tensor, down_XEM: Tensor) -> bool:
        """Whether the weights are still what was packed. A change through `weight.data` is not seen."""
        # Weak references keep the storages' identities, as addresses would not be kept, from being given again.
        return all(version == weight._version and storage.cdata == weight.untyped_storage()._cdata
                   for version, storage, weight in zip(self.versions, self.storages, (gate_up_XGE, down_XEM),
                                                       strict=True))

    @property
    def identity(self) -> int:
        """A number that no other one has."""
        return self.number

    def rows(self, row_PE: Tensor, count_X: Tensor) -> Tensor:
        """The experts of rows that are sorted by them, of at least one."""
        taken = [(expert, num_rows) for expert, num_rows in enumerate(count_X.tolist()) if num_rows]
        counts = [num_rows for _, num_rows in taken]

        def products(row_P: Tensor, weight_X: list[Tensor]) -> Tensor:
            return torch.cat([packed_product(rows, weight_X[expert])
                              for rows, (expert, _) in zip(row_P.split(counts), taken, strict=True)])

        gate_PM, up_PM = products(row_PE, self.gate_up_X).chunk(2, dim=-1)
        return products(F.silu(gate_PM) * up_PM, self.down_X)


# By number, as an operator finds them: its arguments are tensors and numbers, and a compiled program, which models
# share, must not hold those of one.
_held: WeakValueDictionary[int, PackedExperts] = WeakValueDictionary()


def pays(gate_up_XGE: Tensor, down_XEM: Tensor, model_bytes: int = 0) -> bool:
    """Whether packed experts would be faster, for some number of rows, on this processor."""
    weights, dtype = (gate_up_XGE, down_XEM), gate_up_XGE.dtype
    if dtype not in LEAST_BYTES or not few_rows_pay(dtype, model_bytes):
        return False
    least_bytes = LEAST_BYTES[dtype] if has_avx512() else _LEAST_BYTES_BY_AVX2
    are_here = all(weight.device.type == "cpu" and weight.is_contiguous() for weight in weights)
    return are_here and sum(weight.nbytes for weight in weights) >= least_bytes * len(gate_up_XGE)


def experts(x_TE: Tensor, gate_up_XGE: Tensor, down_XEM: Tensor, expert_TA: Tensor, weight_TA: Tensor, *,
            packed: PackedExperts | None) -> Tensor:
    """What moe_experts.experts gives. The packed weights are taken for as many rows as pay, where no gradient is
    wanted, autocast does not ask for another dtype, `kernels` is auto or cpu, and the weights are unchanged."""
    arguments = x_TE, gate_up_XGE, down_XEM, expert_TA, weight_TA
    if packed is None or not _serves(packed, x_TE, (gate_up_XGE, down_XEM), expert_TA):
        return moe_experts.experts(*arguments)
    note("experts", Implementation.CPU)
    note("experts", Algorithm.PACKED)
    return torch.ops.quicksilver.packed_experts(*arguments, packed.handle)


def _serves(packed: PackedExperts, x_TE: Tensor, weights: tuple[Tensor, Tensor], expert_TA: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    is_asked_for = requested() in (None, Implementation.CPU) and x_TE.dtype == weights[0].dtype
    return is_asked_for and 0 < expert_TA.numel() < MANY_ROWS * len(weights[0]) and packed.are_of(*weights)


def _by_handle(x_TE: Tensor, gate_up_XGE: Tensor, down_XEM: Tensor, expert_TA: Tensor, weight_TA: Tensor,
               handle: Tensor) -> Tensor:
    packed, chosen = _held.get(int(handle)), (expert_TA, weight_TA)
    if packed is None:  # dropped since
        return torch.ops.quicksilver.experts(x_TE, gate_up_XGE, down_XEM, *chosen)
    if len(x_TE) == 1:
        return one_row(x_TE, (packed.gate_up_X, packed.down_X), chosen, packed_product)
    return sorted_rows(x_TE, chosen, len(gate_up_XGE), packed.rows)


def _shape_of_experts(x_TE: Tensor, *_: Tensor) -> Tensor:
    return torch.empty_like(x_TE)


_library = torch.library.Library("quicksilver", "FRAGMENT")
_library.define("packed_experts(Tensor x, Tensor gate_up, Tensor down, Tensor expert, Tensor weight, Tensor handle) "
                "-> Tensor")
_library.impl("packed_experts", _by_handle, "CPU")
_library.impl("packed_experts", _shape_of_experts, "Meta")
