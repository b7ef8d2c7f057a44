"""Blocks of a GGUF file are multiplied as what the library `gguf` unpacks them to, but for bfloat16 scales."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize
from quicksilver.kernels.quantized_linear import Form, dense
from quicksilver.models.checkpoints.gguf_blocks import forms, grouped
from torch import Tensor

# Bytes of a block, and those of its float16 scales.
BLOCKS = {"Q4_0": (18, [0]), "Q4_1": (20, [0, 2]), "Q4_K": (144, [0, 2]), "Q8_0": (34, [0])}
NUM_ROWS, NUM_BLOCKS = 20, 3


def rows(kind: str, *, are_exact: bool) -> tuple[Tensor, Tensor]:
    """Random blocks, uint8 [N, bytes], and the values that the library makes of them. Scales that are exact in bfloat16
    are powers of two."""
    rng = np.random.default_rng(len(kind))
    size, scales = BLOCKS[kind]
    blocks = rng.integers(0, 256, (NUM_ROWS, NUM_BLOCKS, size), dtype=np.uint8)
    for place in scales:
        drawn = 2.0 ** rng.integers(-4, 4, (NUM_ROWS, NUM_BLOCKS, 1)) if are_exact else rng.normal(
            size=(NUM_ROWS, NUM_BLOCKS, 1))
        blocks[..., place : place + 2] = drawn.astype(np.float16).view(np.uint8)
    packed = blocks.reshape(NUM_ROWS, -1)
    return torch.from_numpy(packed), torch.from_numpy(dequantize(packed, Type[kind]))


@pytest.mark.parametrize("kind", list(BLOCKS))
def test_values_are_the_librarys_up_to_the_rounding_of_scale_and_zero(kind: str) -> None:
    packed, expected = rows(kind, are_exact=False)
    held = grouped([(kind, packed)])
    assert held.form is forms()[kind]
    group = (-1, 32)
    most = expected.unflatten(1, group).abs().amax(2, keepdim=True)
    least, greatest = (reduce(expected.unflatten(1, group), 2, keepdim=True) for reduce in (torch.amin, torch.amax))
    error = (dense(held) - expected).abs().unflatten(1, group)
    assert (error <= 2**-8 * (most + greatest - least)).all()


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_values_are_the_librarys_to_the_bit_where_bfloat16_holds_the_scales(kind: str) -> None:
    packed, expected = rows(kind, are_exact=True)
    held = grouped([(kind, packed)])
    if kind == "Q4_1":  # m + 8 d has more bits than either
        torch.testing.assert_close(dense(held), expected, rtol=0, atol=2**-8 * 72)
    else:
        assert torch.equal(dense(held), expected)


def test_tensors_of_different_types_are_one_weight_without_loss() -> None:
    parts = [(kind, *rows(kind, are_exact=True)) for kind in ("Q4_0", "Q8_0")]
    held = grouped([(kind, packed) for kind, packed, _ in parts])
    assert held.form is Form.INT8_GROUPS
    assert torch.equal(dense(held), torch.cat([expected for *_, expected in parts]))


def test_scales_that_are_not_finite_are_refused() -> None:
    packed, _ = rows("Q4_0", are_exact=True)
    packed[3, :2] = torch.tensor([0, 124])  # infinity
    with pytest.raises(ValueError, match="holds values that are not finite"):
        grouped([("Q4_0", packed)])
