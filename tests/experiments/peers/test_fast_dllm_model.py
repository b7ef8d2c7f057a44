"""Our weights give our logits in a model with the names of Fast-dLLM's, and another transformers than the one that its
file wants is refused by name."""

from pathlib import Path

import pytest
import torch
from quicksilver.experiments.peers import fast_dllm_model, speed
from quicksilver.experiments.peers.agreement import Turns
from quicksilver.experiments.peers.base import RandomModels
from quicksilver.experiments.peers.fast_dllm_model import Banned, agreement, check_transformers, with_weights_of
from quicksilver.experiments.peers.views import BANNED, Whole
from quicksilver.models import Shape

from tests.experiments.peers.stand_ins import LOOPS, checkout, measured

FILE = "llada/model/modeling_llada.py"
_STAND_IN = """
from types import SimpleNamespace
import torch
from torch import nn
from .configuration_llada import LLaDAConfig

class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        kv = c.n_kv_heads * c.d_model // c.n_heads
        for name, rows, columns in (("q_proj", c.d_model, c.d_model), ("k_proj", kv, c.d_model),
                                    ("v_proj", kv, c.d_model), ("attn_out", c.d_model, c.d_model),
                                    ("ff_proj", c.mlp_hidden_size, c.d_model),
                                    ("up_proj", c.mlp_hidden_size, c.d_model),
                                    ("ff_out", c.d_model, c.mlp_hidden_size)):
            setattr(self, name, nn.Linear(columns, rows, bias=False))
        self.attn_norm, self.ff_norm = (nn.RMSNorm(c.d_model, c.rms_norm_eps) for _ in range(2))
        self.c = c

    def forward(self, x, past, position):
        c, normed = self.c, self.attn_norm(x)
        q, k, v = (proj(normed).unflatten(-1, (-1, c.d_model // c.n_heads)).transpose(1, 2)
                   for proj in (self.q_proj, self.k_proj, self.v_proj))
        width = q.shape[-1]
        angle = position[:, None] / c.rope_theta ** (torch.arange(0, width, 2) / width)
        cos, sin = (torch.cat((part, part), -1) for part in (angle.cos(), angle.sin()))
        turned = (torch.cat((-t[..., width // 2:], t[..., :width // 2]), -1) for t in (q, k))
        q, k = ((t * cos + other * sin).to(v.dtype) for t, other in zip((q, k), turned, strict=True))
        if past is not None and len(past[0][0, 0]) == position[0]:
            k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
        elif past is not None:
            past[0][:, :, position], past[1][:, :, position] = k, v
            k, v = past
        kept = k, v
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in kept)
        mixed = (torch.softmax(q @ k.mT / width**0.5, -1) @ v).transpose(1, 2).flatten(2)
        x = x + self.attn_out(mixed)
        h = self.ff_norm(x)
        return x + self.ff_out(nn.functional.silu(self.ff_proj(h)) * self.up_proj(h)), kept

class LLaDAModelLM(nn.Module):
    device = torch.device("cpu")

    def __init__(self, c):
        super().__init__()
        assert (c.rope, c.block_type, c.activation_type, c.weight_tying) == (True, "llama", "silu", False)
        self.model = nn.Module()
        self.model.transformer = nn.ModuleDict({
            "wte": nn.Embedding(c.vocab_size, c.d_model), "ln_f": nn.RMSNorm(c.d_model, c.rms_norm_eps),
            "ff_out": nn.Linear(c.d_model, c.vocab_size, bias=False),
            "blocks": nn.ModuleList(Block(c) for _ in range(c.n_layers))})

    @torch.no_grad()
    def forward(self, tokens, past_key_values=None, use_cache=False, replace_position=None):
        begin = 0 if past_key_values is None else past_key_values[0][0].shape[2]
        position = torch.arange(begin, begin + tokens.shape[1])
        if replace_position is not None:
            position = replace_position[0].nonzero()[:, 0]
        parts, kept = self.model.transformer, []
        x = parts["wte"](tokens)
        for layer, block in enumerate(parts["blocks"]):
            x, pair = block(x, None if past_key_values is None else past_key_values[layer], position)
            kept.append(pair)
        return SimpleNamespace(logits=parts["ff_out"](parts["ln_f"](x)), past_key_values=kept)
"""
_CONFIG = """
class LLaDAConfig:
    def __init__(self, **values):
        self.__dict__.update(values)
"""


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fast_dllm_model, "version", lambda name: "4.46.3")
    checkout(tmp_path, "llada/generate.py", LOOPS)
    checkout(tmp_path, "llada/model/configuration_llada.py", _CONFIG)
    return checkout(tmp_path, FILE, _STAND_IN)


@torch.inference_mode()
def test_our_weights_give_our_logits_under_their_names(whole: Path) -> None:
    file = fast_dllm_model.model_file(whole)
    shape = Shape(width=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_width=48)
    for model, prompt in RandomModels(2, shape=shape, position_tables=False):
        tokens_1L = torch.tensor([prompt])
        theirs = Banned(with_weights_of(model, file), model.mask_id)
        logits_1LV = theirs(tokens_1L).logits
        torch.testing.assert_close(logits_1LV, Whole(model)(tokens_1L).logits, atol=1e-4, rtol=1e-4)
        assert (logits_1LV[..., model.mask_id] == BANNED).all()
        assert theirs.num_fed == 8


@pytest.mark.slow
@pytest.mark.usefixtures("few_loops")
def test_the_loops_agree_on_their_model_too(whole: Path) -> None:
    findings = list(measured(agreement(whole, num_models=1)))
    assert {found.peer for found in findings} == {"Fast-dLLM, its model"}
    assert len(findings) == 9
    assert all(found.holds for found in findings)


def test_every_loop_is_raced_and_the_dual_one_in_bfloat16_too(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "interleaved", lambda ours, theirs, rounds: Turns([1.0], [2.0]))
    monkeypatch.setattr(speed, "timed_engines", lambda engines, theirs, rounds: ("    engines", {}))
    setting = speed.Setting(Shape(width=16, num_layers=1, num_heads=2, num_kv_heads=2, ffn_width=16,
                                  position_table=False), 13, prompt_length=3, num_new=8, block=4, steps=4, rounds=1)
    timings = list(measured(fast_dllm_model.speed(whole, setting)))
    assert [timing.text.split(", ")[1:3] for timing in timings] == [
        ["dual", "float32"], ["prefix", "float32"], ["no cache", "float32"], ["dual", "bfloat16"]]
    assert all(timing.holds for timing in timings)
    # 2 blocks: the whole of 11 positions, then 4 of the block; ours asks for the block's alone
    assert "positions computed: ours 30, theirs 30; with logits: ours 12, theirs 30" in timings[0].text


@pytest.mark.parametrize(("found", "holds"), [("4.46.3", True), ("4.49.0", False), ("5.0.0", False)])
def test_the_transformers_that_the_file_wants_is_named(found: str, holds: bool, monkeypatch: pytest.MonkeyPatch
                                                       ) -> None:
    monkeypatch.setattr(fast_dllm_model, "version", lambda name: found)
    if holds:
        check_transformers()
    else:
        with pytest.raises(ValueError, match=f"wants transformers 4.46, found {found}; .*--tokens-only"):
            check_transformers()
