"""Tensors that a GGUF file holds in blocks, in the form in which they are multiplied (kernels/quantized_linear.py). Of
their numbers only scales and zeros are rounded, to bfloat16. The blocks, as llama.cpp has them (ggml-common.h):

    Q4_0   w = d (q - 8)            32 values: d, 16 bytes of four bits, the first half of the values in the low ones
    Q4_1   w = d q + m              32: d, m, 16 bytes
    Q4_K   w = d s_i q - e m_i      256: d, e, 12 bytes of the s and m of 8 groups in six bits, 128 bytes
    Q8_0   w = d q                  32: d, 32 bytes
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...kernels.quantized_linear import Form, GroupedWeight, Levels, two_planes

_LOW, _SIX_BITS = 15, 63


def forms() -> dict[str, Form]:
    """The form in which tensors of a type are kept, by its name."""
    return {name: Form.INT8_GROUPS if name == "Q8_0" else Form.INT4 for name in _PLANES}


def grouped(parts: Sequence[tuple[str, Tensor]]) -> GroupedWeight:
    """Tensors, one below the other, as one weight: of each its type, which `forms` has, and its rows, uint8 [N, bytes].
    ValueError where a scale is not finite."""
    planes = [_PLANES[kind](rows) for kind, rows in parts]
    if not all(torch.isfinite(levels.scale_NG).all() and torch.isfinite(levels.zero_NG).all()
               for levels_of_part in planes for levels in levels_of_part):
        raise ValueError("holds values that are not finite")
    most = max(map(len, planes))
    padded = [[*levels, *(_nothing(levels[0]) for _ in range(most - len(levels)))] for levels in planes]
    return GroupedWeight.of([_stacked(each) for each in zip(*padded, strict=True)])


def _stacked(parts: Sequence[Levels]) -> Levels:
    return Levels(torch.cat([part.q_NK for part in parts]), torch.cat([part.scale_NG for part in parts]),
                  torch.cat([part.zero_NG for part in parts]))


def _nothing(like: Levels) -> Levels:
    zero_NG = torch.zeros_like(like.scale_NG)
    return Levels(like.q_NK, zero_NG, zero_NG)


def _blocks(rows: Tensor, num_bytes: int) -> Tensor:
    """uint8 [N, blocks, num_bytes]."""
    return rows.unflatten(1, (-1, num_bytes))


def _halves(blocks: Tensor, start: int) -> Tensor:
    """The first two bytes from `start` on, as a float16: float32 [N, blocks]."""
    return blocks[..., start : start + 2].contiguous().view(torch.float16)[..., 0].float()


def _nibbles(half_bytes: Tensor) -> Tensor:
    """[N, groups, 16] bytes as [N, K] values: of each group, those of the low bits first."""
    return torch.cat((half_bytes & _LOW, half_bytes >> 4), dim=-1).flatten(1)


def _q4_0(rows: Tensor) -> list[Levels]:
    blocks = _blocks(rows, 18)
    scale_NG = _halves(blocks, 0)
    return [Levels(_nibbles(blocks[..., 2:]), scale_NG, torch.zeros_like(scale_NG))]


def _q4_1(rows: Tensor) -> list[Levels]:
    blocks = _blocks(rows, 20)
    scale_NG = _halves(blocks, 0)
    return [Levels(_nibbles(blocks[..., 4:]), scale_NG, _halves(blocks, 2) + 8 * scale_NG)]


def _q4_k(rows: Tensor) -> list[Levels]:
    blocks = _blocks(rows, 144)
    low, high, rest = blocks[..., 4:8], blocks[..., 8:12], blocks[..., 12:16]
    scales = torch.cat((low & _SIX_BITS, rest & _LOW | low >> 6 << 4), dim=-1)
    least = torch.cat((high & _SIX_BITS, rest >> 4 | high >> 6 << 4), dim=-1)
    scale_NG = (_halves(blocks, 0)[..., None] * scales).flatten(1)
    least_NG = (_halves(blocks, 2)[..., None] * least).flatten(1)
    values = blocks[..., 16:].unflatten(-1, (4, 32))  # of two groups each
    q_NK = torch.stack((values & _LOW, values >> 4), dim=-2).flatten(1)
    return [Levels(q_NK, scale_NG, 8 * scale_NG - least_NG)]


def _q8_0(rows: Tensor) -> list[Levels]:
    blocks = _blocks(rows, 34)
    return two_planes(blocks[..., 2:].flatten(1).view(torch.int8), _halves(blocks, 0))


_PLANES: dict[str, Callable[[Tensor], list[Levels]]] = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q4_K": _q4_k, "Q8_0": _q8_0}
