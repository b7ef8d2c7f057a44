"""The views compute what the engine does: two forwards written apart."""

import pytest
import torch
from quicksilver.experiments.peers.base import RandomModels
from quicksilver.experiments.peers.views import BANNED, Whole, logits_of
from quicksilver.models import AttentionPattern, Bidirectional, BlockCausal, Causal, Shape
from torch import Tensor


def as_given(layer: int, k_BKFD: Tensor, v_BKFD: Tensor) -> tuple[Tensor, Tensor]:
    return k_BKFD, v_BKFD


@torch.inference_mode()
@pytest.mark.parametrize("pattern", [Bidirectional(), Causal(), BlockCausal(4)], ids=str)
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_the_plain_forward_is_the_transformers(pattern: AttentionPattern, qkv_bias: bool) -> None:
    shape = Shape(width=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_width=48, qkv_bias=qkv_bias)
    for model, prompt in RandomModels(2, shape=shape, pattern=pattern):
        for name, parameter in model.transformer.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
        tokens_BL = torch.tensor([prompt, prompt[::-1]])
        position_BL = torch.arange(8).expand(2, 8)
        visible_BLC = pattern.visible(position_BL, position_BL)
        logits_BLV = logits_of(model, tokens_BL, position_BL, as_given, visible_BLC)
        expected_BLV = model.logits(model.transformer.sequence_hidden(tokens_BL))
        torch.testing.assert_close(logits_BLV[..., :-1], expected_BLV[..., :-1], atol=1e-4, rtol=1e-4)
        assert (logits_BLV[..., -1] == BANNED).all()


@torch.inference_mode()
def test_the_whole_view_gives_the_engines_logits_with_the_mask_banned() -> None:
    for model, prompt in RandomModels(2):
        tokens_BL = torch.tensor([prompt, prompt[::-1]])
        for mask in (None, torch.ones(2, 8)):
            logits_BLV = Whole(model)(tokens_BL, attention_mask=mask).logits
            expected_BLV = model.logits(model.transformer.sequence_hidden(tokens_BL))
            torch.testing.assert_close(logits_BLV[..., :-1], expected_BLV[..., :-1], atol=1e-5, rtol=1e-5)
            assert (logits_BLV[..., -1] == BANNED).all()


def test_the_whole_view_refuses_padding() -> None:
    model, prompt = next(iter(RandomModels(1)))
    with pytest.raises(AssertionError):
        Whole(model)(torch.tensor([prompt]), attention_mask=torch.tensor([[0] + [1] * 7]))
