"""Products on a CPU with weights of four or eight bits, which PyTorch's operators multiply as they are held.

    groups of 32 along a row     w = (q - 8) scale + zero     q of 4 bits; the form of GGUF's Q4_0 and Q4_1, and twice,
                                                              for the high and the low four bits, of its Q8_0
    rows                         w = q scale                  q of 8 bits

The operators (`aten::_weight_int4pack_mm_for_cpu`, `_weight_int8pack_mm`) are fast with activations, scales and zeros
in bfloat16; they sum in float32 and round the result to bfloat16. Activations of other dtypes are rounded, and the
result is given in theirs. A row's bits do not depend on how many others are multiplied with it.

They are fast for few rows and with AVX-512: a token of SmolLM2-135M, compiled, takes 9.0 ms in 4 bits, 25 in bfloat16
and 36 in float32 on two cores of an AMD EPYC; 32 positions take 89, 39 and 65 (results/smollm2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import Implementation, note, requested

GROUP = 32
_LEVELS = 16  # of four bits
# The rows that are packed together.
_BLOCK = 64
_ROWS_AT_ONCE = 1024
_OPERATORS = "_weight_int4pack_mm_for_cpu", "_convert_weight_to_int4pack_for_cpu", "_weight_int8pack_mm"


class Form(Enum):
    """How a weight is held, in the words of records."""

    INT4 = "weights of 4 bits in groups of 32"
    INT8_GROUPS = "weights of 8 bits in groups of 32"
    INT8_ROWS = "weights of 8 bits in rows"


@dataclass(frozen=True)
class Levels:
    """Weights (q - 8) scale + zero: q_NK uint8 of 0 to 15, scale_NG and zero_NG float, G = K / 32 groups."""

    q_NK: Tensor
    scale_NG: Tensor
    zero_NG: Tensor


class QuantizedWeight(Protocol):
    """A weight [N, K] for products on a CPU. It is never changed."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def form(self) -> Form: ...

    @property
    def num_bytes(self) -> int: ...

    def product(self, x_TK: Tensor) -> Tensor:
        """x W^T, [T, N], of x in bfloat16."""
        ...

    def rows(self, index: Tensor) -> Tensor:
        """Rows of W by their numbers, int64 [...]: float32 [..., K]."""
        ...


@dataclass(frozen=True)
class GroupedWeight:
    """The sum of one or two planes of levels. packed_PK is uint8 [P, K / 2], the planes' rows one after the other, each
    plane's rounded up to 64; scale_zero_GP2 is bfloat16."""

    packed_PK: Tensor
    scale_zero_GP2: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, planes: Sequence[Levels]) -> "GroupedWeight":
        """Scales and zeros are rounded to bfloat16."""
        num_rows, width = planes[0].q_NK.shape
        past = -num_rows % _BLOCK
        q_PK = torch.cat([F.pad(plane.q_NK, (0, 0, 0, past)) for plane in planes])
        scale_zero_GP2 = torch.cat([F.pad(torch.stack((plane.scale_NG.T, plane.zero_NG.T), dim=-1), (0, 0, 0, past))
                                    for plane in planes], dim=1)
        packed_PK = torch.cat([torch.ops.aten._convert_weight_to_int4pack_for_cpu(part.int(), 1)
                               for part in q_PK.split(_BLOCK * (_ROWS_AT_ONCE // _BLOCK))])
        return cls(packed_PK, scale_zero_GP2.bfloat16().contiguous(), (num_rows, width))

    @property
    def _plane_rows(self) -> int:
        return self.shape[0] + -self.shape[0] % _BLOCK

    @property
    def form(self) -> Form:
        return Form.INT4 if len(self.packed_PK) == self._plane_rows else Form.INT8_GROUPS

    @property
    def num_bytes(self) -> int:
        return self.packed_PK.nbytes + self.scale_zero_GP2.nbytes

    def product(self, x_TK: Tensor) -> Tensor:
        y_TP = torch.ops.aten._weight_int4pack_mm_for_cpu(x_TK, self.packed_PK, GROUP, self.scale_zero_GP2)
        first_TN = y_TP[:, : self.shape[0]]
        if self.form is Form.INT4:
            return first_TN
        return first_TN.float() + y_TP[:, self._plane_rows : self._plane_rows + self.shape[0]]

    def rows(self, index: Tensor) -> Tensor:
        found = self._plane(index)
        return found if self.form is Form.INT4 else found + self._plane(index + self._plane_rows)

    def _plane(self, index: Tensor) -> Tensor:
        layout, width = _layout(), self.shape[1]
        within = index % _BLOCK
        step, shift = layout.step, layout.shift[within]
        start = index // _BLOCK * (_BLOCK // 2 * width) + layout.block[within] * (step * width) + layout.byte[within]
        byte = self.packed_PK.flatten()[start[..., None] + step * torch.arange(width)]
        level = ((byte >> shift[..., None]) & (_LEVELS - 1)).float() - _LEVELS // 2
        scale_zero = self.scale_zero_GP2[:, index].movedim(0, -2).float()  # [..., G, 2]
        return (level.unflatten(-1, (-1, GROUP)) * scale_zero[..., :1] + scale_zero[..., 1:]).flatten(-2)


@dataclass(frozen=True)
class RowWeight:
    """q_NK int8, scale_N bfloat16."""

    q_NK: Tensor
    scale_N: Tensor

    @classmethod
    def of(cls, weight_NK: Tensor) -> "RowWeight":
        """The nearest of 255 values about zero in each row."""
        scale_N = (weight_NK.abs().amax(1).float() / 127).bfloat16()
        q_NK = (weight_NK / _divisor(scale_N)[:, None]).round_().clamp_(-127, 127)
        return cls(q_NK.to(torch.int8), scale_N)

    @property
    def shape(self) -> tuple[int, int]:
        num_rows, width = self.q_NK.shape
        return num_rows, width

    @property
    def form(self) -> Form:
        return Form.INT8_ROWS

    @property
    def num_bytes(self) -> int:
        return self.q_NK.nbytes + self.scale_N.nbytes

    def product(self, x_TK: Tensor) -> Tensor:
        return torch.ops.aten._weight_int8pack_mm(x_TK, self.q_NK, self.scale_N)

    def rows(self, index: Tensor) -> Tensor:
        return self.q_NK[index].float() * self.scale_N[index].float()[..., None]


def quantized(weight_NK: Tensor, form: Form) -> GroupedWeight | RowWeight:
    """A float weight in a form: rounded to the nearest of the levels, which go from the least to the greatest value of
    each group, or to as much below zero as above. Its width must be one that `fits`."""
    if form is Form.INT8_ROWS:
        return RowWeight.of(weight_NK)
    group_NGK = weight_NK.float().unflatten(1, (-1, GROUP))
    if form is Form.INT4:
        least_NG, most_NG = group_NGK.amin(2), group_NGK.amax(2)
        scale_NG = ((most_NG - least_NG) / (_LEVELS - 1)).bfloat16().float()
        zero_NG = (least_NG + _LEVELS // 2 * scale_NG).bfloat16().float()
        q_NGK = ((group_NGK - zero_NG[..., None]) / _divisor(scale_NG)[..., None]).round_() + _LEVELS // 2
        return GroupedWeight.of([Levels(q_NGK.clamp_(0, _LEVELS - 1).to(torch.uint8).flatten(1), scale_NG, zero_NG)])
    scale_NG = (group_NGK.abs().amax(2) / 127).bfloat16().float()
    q_NGK = (group_NGK / _divisor(scale_NG)[..., None]).round_().clamp_(-127, 127)
    return GroupedWeight.of(two_planes(q_NGK.flatten(1).to(torch.int8), scale_NG))


def two_planes(q_NK: Tensor, scale_NG: Tensor) -> list[Levels]:
    """Weights q scale, q_NK int8: q = 16 (high - 8) + (low - 8) + 8."""
    offset_NK = (q_NK.int() + 128).to(torch.uint8)
    return [Levels(offset_NK >> 4, _LEVELS * scale_NG, torch.zeros_like(scale_NG)),
            Levels(offset_NK & (_LEVELS - 1), scale_NG, _LEVELS // 2 * scale_NG)]


def fits(width: int) -> bool:
    """Whether rows of this width can be quantised."""
    return width % GROUP == 0


def num_bytes_of(shape: tuple[int, int], form: Form) -> int:
    """What a weight of this shape takes in a form."""
    num_rows, width = shape
    if form is Form.INT8_ROWS:
        return num_rows * (width + 2)
    planes = 1 if form is Form.INT4 else 2
    return planes * (num_rows + -num_rows % _BLOCK) * (width // 2 + width // GROUP * 4)


def has_operators() -> bool:
    """Whether this PyTorch multiplies such weights on a CPU."""
    return all(hasattr(torch.ops.aten, name) for name in _OPERATORS)


def dense(weight: QuantizedWeight) -> Tensor:
    """All values, float32 [N, K]."""
    return torch.cat([weight.rows(index) for index in torch.arange(weight.shape[0]).split(_ROWS_AT_ONCE)])


def quantized_linear(x: Tensor, weight: QuantizedWeight, bias_N: Tensor | None) -> Tensor:
    """x W^T + b, float [..., N] of x [..., K], in the dtype of x. Where `kernels` is reference, by F.linear with the
    values of the weight. ValueError where a gradient is wanted."""
    if torch.is_grad_enabled() and x.requires_grad:
        raise ValueError(f"a model with {weight.form.value} cannot be trained: dequantize() it first, or decode under "
                         "torch.inference_mode()")
    if requested() is Implementation.REFERENCE:
        return F.linear(x, dense(weight).to(x.dtype), bias_N)
    note("linear", Implementation.CPU)
    note("linear", weight.form)
    y_TN = weight.product(x.reshape(-1, x.shape[-1]).to(torch.bfloat16)).to(x.dtype)
    y = y_TN.view(*x.shape[:-1], weight.shape[0])
    return y if bias_N is None else y + bias_N


def _divisor(scale: Tensor) -> Tensor:
    """The scale as float32, or one where it is zero, as all values then are."""
    return torch.where(scale == 0, 1, scale.float())


@dataclass(frozen=True)
class _Layout:
    """Where the operator's layout, which depends on the processor, has 64 rows [64, K]: in blocks of step bytes for
    each of K, a row's in a byte of a block, shifted by so many bits. int64 [64] each, but for the shifts, uint8."""

    block: Tensor
    byte: Tensor
    shift: Tensor
    step: int


@cache
def _layout() -> _Layout:
    row_64 = torch.arange(_BLOCK)
    pack = torch.ops.aten._convert_weight_to_int4pack_for_cpu
    with torch.inference_mode(False), torch.no_grad():
        low, high, column = (
            pack(values.expand(_BLOCK, 2).int().contiguous(), 1).flatten()
            for values in (row_64[:, None] % _LEVELS, row_64[:, None] // _LEVELS, torch.arange(2)[None]))
        place = torch.empty(_BLOCK, 2, dtype=torch.int64)
        for shift in (0, 4):
            row, k = ((low >> shift) & 15) + _LEVELS * ((high >> shift) & 15), (column >> shift) & 15
            place[row.long(), k.long()] = 8 * torch.arange(_BLOCK) + shift
        byte_64_2, shift_64 = place // 8, place[:, 0] % 8
        step = int(byte_64_2[0, 1] - byte_64_2[0, 0])
        return _Layout(byte_64_2[:, 0] // (2 * step), byte_64_2[:, 0] % (2 * step), shift_64.to(torch.uint8), step)
