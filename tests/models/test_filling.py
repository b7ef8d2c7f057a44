"""A model that is loaded takes the memory of its weights once, from its file to its places."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from quicksilver.models import load
from safetensors.torch import save_file

from tests.models.families.transformers_model import Variant

MEASURE = """
import sys, threading, time
from pathlib import Path
import torch
import quicksilver.decoders
from quicksilver.models import load

def bytes_held():
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

torch.ones(300, 300) @ torch.ones(300, 300)
before, seen, is_loaded = bytes_held(), [], threading.Event()

def sample():
    while not is_loaded.wait(0.002):
        seen.append(bytes_held())

sampler = threading.Thread(target=sample)
sampler.start()
loaded = load(sys.argv[1], device="cpu", dtype=getattr(torch, sys.argv[2]))
is_loaded.set()
sampler.join()
print(max(*seen, bytes_held()) - before, max(seen))
"""
WIDTH, INNER, VOCAB, KEYS = 1024, 2816, 32_000, 256


def written(folder: Path, dtype: torch.dtype, num_bytes: int) -> int:
    """A checkpoint of about so many bytes in shards of three layers. Returns how many."""
    shards = [{"model.embed_tokens.weight": (VOCAB, WIDTH), "lm_head.weight": (VOCAB, WIDTH),
               "model.norm.weight": (WIDTH,)}]
    layer_bytes = (2 * WIDTH * (WIDTH + KEYS) + 3 * WIDTH * INNER) * dtype.itemsize
    num_layers = (num_bytes - 2 * VOCAB * WIDTH * dtype.itemsize) // layer_bytes
    for layer in range(num_layers):
        shards += [{}] if layer % 3 == 0 else []
        sizes = {"input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,), "self_attn.q_proj": (WIDTH, WIDTH),
                 "self_attn.k_proj": (KEYS, WIDTH), "self_attn.v_proj": (KEYS, WIDTH),
                 "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH),
                 "mlp.down_proj": (WIDTH, INNER)}
        shards[-1] |= {f"model.layers.{layer}.{name}.weight": size for name, size in sizes.items()}
    for number, sizes in enumerate(shards):
        tensors = {name: torch.randn(size, dtype=dtype) for name, size in sizes.items()}
        save_file(tensors, folder / f"{number}.safetensors")
    weight_map = {name: f"{number}.safetensors" for number, sizes in enumerate(shards) for name in sizes}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "hidden_size": WIDTH, "intermediate_size": INNER, "vocab_size": VOCAB,
        "num_hidden_layers": num_layers, "num_attention_heads": 16, "num_key_value_heads": 4, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048, "hidden_act": "silu"}))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_checkpoint_of_a_gibibyte_takes_little_more_than_its_size(dtype: torch.dtype, tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("not Linux")
    num_bytes = written(tmp_path, dtype, 1 << 30)
    arguments = [sys.executable, "-c", MEASURE, str(tmp_path), str(dtype).removeprefix("torch.")]
    found = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    above, most = (int(number) for number in found.split())
    assert above <= 1.1 * num_bytes, found
    assert most > num_bytes  # or the measurement saw nothing


def test_no_initial_values_are_drawn(tmp_path: Path) -> None:
    Variant("Mixtral", {"num_local_experts": 4}).saved(tmp_path)
    state = torch.get_rng_state()
    load(tmp_path, device="cpu", say=lambda line: None)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_compiler_is_not_imported(tmp_path: Path) -> None:
    Variant("Llama").saved(tmp_path)
    code = ("import sys; from quicksilver.models import load; load(sys.argv[1], device='cpu'); "
            "sys.exit('torch._dynamo' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 0
