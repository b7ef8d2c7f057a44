"""What is loaded of a GGUF file equals what is loaded of a folder with the weights that it unpacks to."""

import math
import re
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from quicksilver.models import LoadedModel, load
from quicksilver.models.checkpoints.gguf_file import GgufFile
from torch import Tensor

from tests.models.checkpoints.gguf_models import SIZE, Written
from tests.models.checkpoints.gguf_mutations import mutations

TYPES = (Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q8_0)
K_SIZE = {"hidden_size": 256, "intermediate_size": 256}
EXPERTS = {"num_experts_per_tok": 2}
# In its own words, and without Llama's.
LLADA = {name: None for name in SIZE if name not in ("vocab_size", "rms_norm_eps", "rope_theta")} | {
    "d_model": 64, "mlp_hidden_size": 96, "n_layers": 2, "n_heads": 4, "max_sequence_length": 256,
    "activation_type": "silu", "block_type": "llama", "layer_norm_type": "rms", "rope": True, "weight_tying": False}
VARIANTS = [
    *(Written("llama", "LlamaForCausalLM", type=kind) for kind in TYPES),
    *(Written("llama", "LlamaForCausalLM", K_SIZE, type=kind) for kind in (Type.Q4_K, Type.Q6_K)),
    Written("llama", "LlamaForCausalLM", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    Written("llama", "LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True, "head_dim": 24}),
    Written("llama", "LlamaForCausalLM", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}),
    Written("llama", "LlamaForCausalLM",
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
            {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0,
             "llama.rope.scaling.original_context_length": 32}),
    Written("llama", "MixtralForCausalLM", {"num_local_experts": 4} | EXPERTS, type=Type.Q4_0),
    Written("qwen2", "Qwen2ForCausalLM", type=Type.Q8_0),
    Written("qwen2", "Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    Written("qwen3", "Qwen3ForCausalLM", {"head_dim": 32}, type=Type.Q4_1),
    Written("qwen3moe", "Qwen3MoeForCausalLM", {
        "num_experts": 6, "moe_intermediate_size": 32, "norm_topk_prob": True, "head_dim": 32} | EXPERTS,
        type=Type.Q8_0),
    Written("olmoe", "OlmoeForCausalLM", {"num_experts": 5, "norm_topk_prob": False} | EXPERTS),
    Written("olmoe", "OlmoeForCausalLM", {"num_experts": 5, "clip_qkv": 0.5} | EXPERTS, type=Type.Q4_0),
]

DIFFUSION = [
    Written("dream", "DreamModel", {"mask_token_id": 9}, {
        "dream.attention.causal": False, "tokenizer.ggml.mask_token_id": 9}, type=Type.Q8_0),
    Written("llada", "LLaDAModelLM", {**LLADA, "mask_token_id": 9, "n_kv_heads": 2}, {
        "llada.attention.causal": False, "diffusion.shift_logits": False, "tokenizer.ggml.mask_token_id": 9},
        type=Type.Q4_1),
    Written("llada-moe", "LLaDAMoEModelLM", {
        "num_experts": 5, "expert_intermediate_size": 32, "dense_intermediate_size": 96, "intermediate_size": None,
        "qk_layernorm": True, "moe_layer_freq": [1, 1], "mask_token_id": 9} | EXPERTS, {
        "llada-moe.feed_forward_length": 96, "llada-moe.attention.causal": False, "diffusion.shift_logits": False,
        "tokenizer.ggml.mask_token_id": 9}, type=Type.Q4_0),
]


def quiet(line: str) -> None:
    pass


def logits(loaded: LoadedModel) -> Tensor:
    """Of two rows of 80 positions, [2, 80, V]."""
    tokens_BL = torch.randint(0, SIZE["vocab_size"], (2, 80), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return loaded.model.logits(loaded.model.transformer.sequence_hidden(tokens_BL))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_its_logits_are_those_of_the_weights_that_it_unpacks_to(variant: Written, tmp_path: Path) -> None:
    path = variant.write(tmp_path)
    assert torch.equal(logits(load(path, say=quiet)), logits(load(tmp_path, say=quiet)))


@pytest.mark.parametrize("variant", DIFFUSION, ids=str)
def test_diffusion_models_have_their_mask_shift_and_attention_too(variant: Written, tmp_path: Path) -> None:
    found, wanted = (load(path, say=quiet) for path in (variant.write(tmp_path), tmp_path))
    assert found.model.spec == wanted.model.spec
    assert found.model.spec.mask_id == 9
    assert torch.equal(logits(found), logits(wanted))


def test_the_scaling_of_llama_3_is_that_of_its_divisors(tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}
    divisors = llama3_divisors(scaling)
    assert len({*divisors.tolist()}) > 3
    variant = Written("llama", "LlamaForCausalLM", {"rope_scaling": scaling}, extra={"rope_freqs.weight": divisors})
    found, wanted = logits(load(variant.write(tmp_path), say=quiet)), logits(load(tmp_path, say=quiet))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    plain = Written("llama", "LlamaForCausalLM")
    assert (logits(load(plain.write(tmp_path), say=quiet)) - wanted).abs().max() > 0.01 * wanted.abs().max()


def llama3_divisors(scaling: dict) -> np.ndarray:
    """By llama.cpp's converter (conversion/llama.py, generate_extra_tensors), float32 [head_dim / 2]."""
    width = SIZE["hidden_size"] // SIZE["num_attention_heads"]
    low, high, original = (scaling[name] for name in (
        "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"))
    divisors = []
    for frequency in SIZE["rope_theta"] ** -(np.arange(0, width, 2) / width):
        turns = original * frequency / (2 * math.pi)
        kept = min(max((turns - low) / (high - low), 0), 1)
        divisors.append(1 / (kept + (1 - kept) / scaling["factor"]))
    return np.array(divisors, np.float32)


@pytest.mark.parametrize("name", ["q_proj", "k_proj"])
def test_rows_are_in_published_order_packed_and_unpacked(name: str, tmp_path: Path) -> None:
    path = Written("llama", "LlamaForCausalLM", type=Type.Q4_1).write(tmp_path)
    checkpoint = GgufFile.opened(path)
    kind, rows = checkpoint.raw(f"model.layers.1.self_attn.{name}.weight")
    from gguf.quants import dequantize
    from safetensors.torch import load_file

    wanted = load_file(tmp_path / "model.safetensors")[f"model.layers.1.self_attn.{name}.weight"]
    assert (kind, rows.shape) == ("Q4_1", (len(wanted), 40))
    assert torch.equal(torch.from_numpy(dequantize(rows, Type.Q4_1)), wanted)


def test_special_ids_are_those_of_the_file(tmp_path: Path) -> None:
    ids = {f"tokenizer.ggml.{name}_token_id": place for place, name in enumerate(("bos", "eos", "padding"))}
    published = load(Written("qwen2", "Qwen2ForCausalLM", keys=ids).write(tmp_path), say=quiet).published
    assert [published[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [0, 1, 2]


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Written("llama", "LlamaForCausalLM").write(tmp_path)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"gguf, .* not installed: pip install 'quicksilver\[gguf\]'"):
        load(path)


TEXT = {"general.name": "tiny", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["one", "two"] * 48,
        "tokenizer.ggml.token_type": [1] * 96, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.add_bos_token": True}
# A type that no other is as large as, but for the F16 that is a BF16 as well: no reader can tell those apart.
MUTATED = [
    Written("llama", "LlamaForCausalLM", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, {
        **TEXT, "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0,
        "llama.rope.dimension_count": 16, "general.alignment": 64}),
    Written("llama", "MixtralForCausalLM", {"num_local_experts": 4} | EXPERTS, TEXT, type=Type.Q4_1),
    Written("qwen3moe", "Qwen3MoeForCausalLM", {
        "num_experts": 6, "moe_intermediate_size": 32, "norm_topk_prob": True, "head_dim": 32} | EXPERTS, TEXT,
        type=Type.Q8_0),
]
NAMED = re.compile(r"header: |(?:value|tensors?) ['\w]|has no \S+,|^\S+(?: of type|=|: unknown)|GGUF")


def largest_bytes() -> int:
    """The most memory, taken or only asked for, that this process has had at once."""
    return 1024 * int(re.search(r"VmPeak:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # pyright: ignore


def traced_load(path: Path) -> tuple[LoadedModel | ValueError, int]:
    """What comes of loading, and the most memory that Python and NumPy took for it at once."""
    tracemalloc.start()
    try:
        found = load(path, say=quiet)
    except ValueError as error:
        found = error
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return found, most


@pytest.mark.parametrize("number", [70, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("variant", MUTATED, ids=str)
def test_a_damaged_header_is_refused_by_name_or_changes_nothing(
        variant: Written, number: int, tmp_path: Path) -> None:
    path = variant.write(tmp_path)
    data, damaged, num_refused = path.read_bytes(), tmp_path / "damaged.gguf", 0
    clean = logits(load(path, say=quiet))  # and all modules are imported
    _, usual = traced_load(path)
    assert usual < 2 * len(data)
    before = largest_bytes()
    for content in mutations(data, number, seed=number):
        damaged.write_bytes(content)
        found, most = traced_load(damaged)
        assert most < usual + 2 * len(data)
        if isinstance(found, LoadedModel):
            assert torch.equal(logits(found), clean)
        else:
            said = str(found).removeprefix(f"{damaged}: ")
            assert "\n" not in said
            assert NAMED.search(said), said
            num_refused += 1
    assert number * 0.9 < num_refused <= number
    assert largest_bytes() - before < 2**25
