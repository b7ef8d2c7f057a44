"""What the library unpacks is taken as it is; formats of blocks written out where they are plain."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from quicksilver.models.checkpoints.gguf_types import block_size, tensor_type, values_of

VALUES = np.random.default_rng(0).normal(size=(3, 5, 64)).astype(np.float32)


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0])
def test_stacks_of_rows_are_unpacked_as_the_library_does(kind: Type) -> None:
    packed = quantize(VALUES, kind)
    assert packed.dtype == np.uint8
    assert torch.equal(values_of(packed, kind), torch.from_numpy(dequantize(packed, kind)))


@pytest.mark.parametrize(("kind", "dtype"), [
    (Type.F32, torch.float32), (Type.F16, torch.float16), (Type.BF16, torch.bfloat16), (Type.F64, torch.float64)])
def test_floats_stay_what_they_are(kind: Type, dtype: torch.dtype) -> None:
    values = torch.from_numpy(VALUES).to(dtype)
    found = values_of(values.view(torch.uint8).numpy(), kind)
    assert found.dtype == dtype
    assert torch.equal(found, values)


def test_rows_are_unpacked_a_few_at_a_time_without_a_seam() -> None:
    packed = np.random.default_rng(1).integers(0, 60, (2500, 34 * 16), np.uint8)  # 2,500 rows of 512: over 2^20 values
    assert torch.equal(values_of(packed, Type.Q8_0), torch.from_numpy(dequantize(packed, Type.Q8_0)))


@pytest.mark.parametrize("kind", [Type.F32, Type.BF16, Type.Q4_K, Type.Q6_K, Type.IQ4_NL])
def test_types_are_known_by_their_number(kind: Type) -> None:
    assert tensor_type(int(kind)) is kind
    assert block_size(kind) == gguf.GGML_QUANT_SIZES[kind]


@pytest.mark.parametrize(("number", "message"), [
    (200, "type 200: must be one that gguf knows"), (4, "type 4: must be"), (24, "type I8: gguf does not unpack it"),
    (9, "type Q8_1: gguf does not unpack it"), (2**32 - 1, "type 4294967295: must be")])
def test_types_that_nothing_unpacks_are_refused_by_name(number: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tensor_type(number)
