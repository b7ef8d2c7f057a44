"""Tiny random models as GGUF files, by the library's writer, each beside a folder with the weights that it unpacks to.
Names are those of the library's own table, rows in the order of llama.cpp's converter."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray
from quicksilver.models.families import describe
from safetensors.torch import save_file

SIZE = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 5000.0}
_KEYS = {"vocab_size": "vocab_size", "hidden_size": "embedding_length", "intermediate_size": "feed_forward_length",
         "num_hidden_layers": "block_count", "num_attention_heads": "attention.head_count",
         "num_key_value_heads": "attention.head_count_kv", "max_position_embeddings": "context_length",
         "rms_norm_eps": "attention.layer_norm_rms_epsilon", "rope_theta": "rope.freq_base",
         "head_dim": "attention.key_length", "num_local_experts": "expert_count", "num_experts": "expert_count",
         "num_experts_per_tok": "expert_used_count", "moe_intermediate_size": "expert_feed_forward_length",
         "expert_intermediate_size": "expert_feed_forward_length", "clip_qkv": "attention.clamp_kqv",
         "d_model": "embedding_length", "mlp_hidden_size": "feed_forward_length", "n_layers": "block_count",
         "n_heads": "attention.head_count", "n_kv_heads": "attention.head_count_kv",
         "max_sequence_length": "context_length"}
# Of types that the library unpacks but does not pack: a block's bytes, and where its float16 scales are.
_SCALES = {Type.Q4_K: (144, slice(0, 4)), Type.Q6_K: (210, slice(208, 210))}


@dataclass(frozen=True)
class Written:
    """A model of an architecture: `values` of its config.json that are not SIZE's, and `keys` of the file and tensors
    (`extra`) that none of those says. Matrices are of type `type`."""

    architecture: str
    published: str
    values: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    type: Type = Type.F32

    def __str__(self) -> str:
        return " ".join((self.published, self.type.name, *(f"{name}={self.values[name]}" for name in self.values)))

    @property
    def config(self) -> dict[str, Any]:
        return {"architectures": [self.published]} | SIZE | dict(self.values)

    def write(self, folder: Path) -> Path:
        """model.gguf in the folder, beside config.json and model.safetensors. Returns its path."""
        rng = np.random.default_rng(0)
        packed, unpacked = {}, {}
        description = describe(self.config, "twin")
        for assignment in description.names.assignments(description.config):
            for part in assignment.parts:
                packed[part.name] = _random(rng, part.shape, self.type)
                unpacked[part.name] = torch.from_numpy(_values(packed[part.name], part.shape, self.type))
        save_file(unpacked, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(self.config))
        self._write(folder / "model.gguf", packed)
        return folder / "model.gguf"

    def _write(self, path: Path, packed: Mapping[str, NDArray[Any]]) -> None:
        writer = gguf.GGUFWriter(path, self.architecture)
        for name, value in self.config.items():
            if name in _KEYS and value is not None:
                _add_value(writer, f"{self.architecture}.{_KEYS[name]}", value)
        for key, value in self.keys.items():
            _add_value(writer, key, value)
        stacks: dict[str, list[NDArray[Any]]] = {}
        for published, data in packed.items():
            stacks.setdefault(self._named(published), []).append(self._in_order(published, data))
        for name, data in stacks.items():
            _add_tensor(writer, name, np.stack(data) if "_exps" in name else data[0], self.type)
        for name, data in self.extra.items():
            _add_tensor(writer, name, data, self.type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def _named(self, published: str) -> str:
        """The name in the file, of an expert that of all experts (conversion/llama.py, conversion/qwen.py)."""
        (architecture,) = (key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == self.architecture)
        table = gguf.get_tensor_name_map(architecture, SIZE["num_hidden_layers"])
        merged = re.sub(r"experts\.\d+", "experts", published)
        merged = re.sub(r"model.(layers.\d+).block_sparse_moe.experts", r"\1.feed_forward.experts", merged)
        found = table.get_name(merged, (".weight", ".bias"))
        assert found is not None, published
        return found

    def _in_order(self, published: str, rows: NDArray[Any]) -> NDArray[Any]:
        """Of queries and keys, each head's rows as llama.cpp rotates them: first with first of the second half."""
        is_q, config = "q_proj" in published, self.config
        if self.architecture not in ("llama", "llada") or not (is_q or "k_proj" in published):
            return rows
        name, own = ("num_attention_heads", "n_heads") if is_q else ("num_key_value_heads", "n_kv_heads")
        heads = config.get(own) or config[name]
        half = len(rows) // heads // 2
        return rows[[2 * half * head + half * second + pair
                     for head in range(heads) for pair in range(half) for second in (0, 1)]]


def _random(rng: np.random.Generator, shape: tuple[int, ...], kind: Type) -> NDArray[Any]:
    """A vector around 1 in float32, a matrix packed: [rows, bytes], or values where `kind` is a float."""
    if len(shape) == 1:
        return rng.normal(1, 0.3, shape).astype(np.float32)
    if kind not in _SCALES:
        return quantize(rng.normal(0, shape[-1] ** -0.5, shape).astype(np.float32), kind)
    size, scales = _SCALES[kind]
    blocks = rng.integers(0, 256, (shape[0], shape[1] // 256, size), np.uint8)
    blocks[..., scales] = np.full(2, 1e-4, np.float16).view(np.uint8)[: scales.stop - scales.start]
    return blocks.reshape(shape[0], -1)


def _values(packed: NDArray[Any], shape: tuple[int, ...], kind: Type) -> NDArray[np.float32]:
    return packed if len(shape) == 1 else dequantize(packed, kind).astype(np.float32)


def _add_tensor(writer: gguf.GGUFWriter, name: str, data: NDArray[Any], kind: Type) -> None:
    writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=Type.F32 if data.ndim == 1 else kind)


def _add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, np.generic):
        writer.add_uint16(key, int(value))
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    else:
        (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(key, value)
