"""Layers: attention where a GPU trains, and what hooks see where one launch stands for several modules."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from quicksilver.kernels.dispatch import Implementation, using
from quicksilver.models import AttentionPattern, Bidirectional, BlockCausal, Causal

from ..conftest import VOCAB_SIZE, random_transformer
from ..strict_device import DEVICE, rehearsal

PATTERNS = [(Causal(), True), (Bidirectional(), False), (BlockCausal(4), False)]


@pytest.mark.parametrize(("pattern", "is_causal"), PATTERNS, ids=str)
def test_training_on_a_gpu_asks_for_what_its_flash_kernels_take(
        pattern: AttentionPattern, is_causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    real = F.scaled_dot_product_attention

    def watched(*tensors: Any, is_causal: bool = False, **options: Any) -> Any:
        asked.append((tensors[0].dtype, tensors[3] is None, is_causal))
        return real(*tensors, is_causal=is_causal, **options)

    model, tokens_BL = random_transformer(pattern), torch.randint(0, VOCAB_SIZE, (2, 12))
    expected = model.sequence_hidden(tokens_BL)
    with rehearsal():
        model, tokens_BL = model.to(DEVICE), tokens_BL.to(DEVICE)
        monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
        exact = model.sequence_hidden(tokens_BL)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            rounded = model.sequence_hidden(tokens_BL)
        rounded.float().sum().backward()
        found, near = exact.detach().cpu(), rounded.detach().float().cpu()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (near - expected).norm() < 0.05 * expected.norm()
    has_mask = isinstance(pattern, BlockCausal)
    assert asked == 2 * [(torch.float32, not has_mask, is_causal)] + 2 * [(torch.bfloat16, not has_mask, is_causal)]


@torch.inference_mode()
@pytest.mark.parametrize("name", ["attention.qkv_proj", "attention_norm", "ffn.gate_up_proj"])
def test_hooks_of_layers_that_one_launch_stands_for_still_run(name: str) -> None:
    model, tokens_BL = random_transformer(Causal()), torch.randint(0, VOCAB_SIZE, (2, 3))
    plain = model.sequence_hidden(tokens_BL)

    def doubled(module: Any, inputs: Any, output: Any) -> Any:
        return (2 * output[0], output[1]) if isinstance(output, tuple) else 2 * output

    model.blocks[1].get_submodule(name).register_forward_hook(doubled)
    expected = model.sequence_hidden(tokens_BL)
    with using(Implementation.TRITON):
        found = model.sequence_hidden(tokens_BL)
    assert (expected - plain).norm() > 0.01 * plain.norm()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
