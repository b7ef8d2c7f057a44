"""Keys of a GGUF file become a configuration, or a line that names the key."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quicksilver.models.checkpoints.gguf_file import GgufFile

from tests.models.checkpoints.gguf_models import SIZE, Written

LLAMA = Written("llama", "LlamaForCausalLM")
MIXTRAL = Written("llama", "MixtralForCausalLM", {"num_local_experts": 4, "num_experts_per_tok": 2})
ONES = np.ones(8, np.float32)


def config_of(written: Written, folder: Path, keys: dict[str, Any]) -> dict[str, Any]:
    return GgufFile.opened(replace(written, keys=keys).write(folder)).config


def test_it_is_that_of_the_model(tmp_path: Path) -> None:
    found = config_of(LLAMA, tmp_path, {"general.name": "a", "quantize.imatrix.file": "b", "tokenizer.ggml.pre": "c"})
    assert found == {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": False,
                     "attention_bias": False, "mlp_bias": False, **SIZE}


def test_what_is_unknown_is_kept_for_the_family_to_refuse(tmp_path: Path) -> None:
    keys = {"llama.attention.scale": 0.5, "other.key": [1, 2]}
    found = config_of(LLAMA, tmp_path, keys)
    assert found["llama.attention.scale"] == 0.5
    assert found["other.key"] == "an ARRAY of INT32"


@pytest.mark.parametrize(("keys", "message"), [
    ({"llama.attention.causal": False}, "llama.attention.causal=False: must be True"),
    ({"general.type": "adapter"}, "general.type='adapter': must be 'model'"),
    ({"split.count": np.uint16(3)}, "split.count: a part of a split file"),
    ({"split.count": 2}, "split.count of type UINT32: must be UINT16"),
    ({"llama.rope.dimension_count": 8}, "llama.rope.dimension_count=8: must be 16"),
    ({"llama.attention.value_length": 8}, "llama.attention.value_length=8: must be 16"),
    ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0}, "type='longrope': must be one of"),
    ({"llama.rope.scaling.type": "yarn"}, "has no llama.rope.scaling.factor, which"),
    ({"llama.rope.scaling.factor": 2}, "llama.rope.scaling.factor of type UINT32: must be FLOAT32"),
    ({"llama.rope.scaling.factor": -2.0}, "llama.rope.scaling.factor=-2.0: must be a number above 0"),
    ({"llama.expert_count": 2}, "llama.expert_count=2: the tensors are of no experts"),
    ({"llama.attention.key_length": 0}, "llama.attention.key_length=0: must be an integer of at least 1"),
], ids=str)
def test_what_does_not_fit_is_refused_by_its_key(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(LLAMA, tmp_path, keys)


@pytest.mark.parametrize(("written", "key", "number", "message"), [
    (LLAMA, "llama.block_count", 2**31, "=2147483648: the tensors are of 2 blocks"),
    (LLAMA, "llama.context_length", 2**28, "=268435456: the angles of so many positions"),
    (LLAMA, "llama.attention.head_count", 3, "_kv=2: must divide the 3 heads"),
    (LLAMA, "llama.attention.head_count", 12, "=12: must divide the 64 dimensions"),
    (MIXTRAL, "llama.expert_count", 2**31, "=2147483648: the tensors are of .4. experts"),
    (MIXTRAL, "llama.expert_count", 0, "=0: the tensors are of .4. experts"),
], ids=str)
def test_numbers_that_the_tensors_belie_are_refused(
        written: Written, key: str, number: int, message: str, tmp_path: Path) -> None:
    path = written.write(tmp_path)
    data, name = path.read_bytes(), key.encode()
    place = data.index(name + b"\4\0\0\0") + len(name) + 4
    path.write_bytes(data[:place] + number.to_bytes(4, "little") + data[place + 4 :])
    with pytest.raises(ValueError, match=f"{path}: {key}{message}"):
        GgufFile.opened(path)


@pytest.mark.parametrize("divisors", [ONES[:7], -ONES, np.inf * ONES], ids=["7", "negative", "infinite"])
def test_rotary_divisors_are_one_positive_number_a_frequency(divisors: np.ndarray, tmp_path: Path) -> None:
    path = replace(LLAMA, extra={"rope_freqs.weight": divisors}).write(tmp_path)
    with pytest.raises(ValueError, match=r"tensor rope_freqs.weight of shape \[.\]: must be 8 positive numbers"):
        GgufFile.opened(path)


def test_an_architecture_that_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    path = LLAMA.write(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"llama", b"mamba"))
    with pytest.raises(ValueError, match="general.architecture='mamba': must be one of dream, llada, llada-moe, "):
        GgufFile.opened(path)
