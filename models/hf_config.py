"""Reads the config of a Hugging Face module, by duck typing: shape, special tokens, and layers with local attention."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .kv_store import KVStore


def read(config: object, *names: str) -> Any:
    """The first of these fields that the config has and that is not None; else None."""
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)


@dataclass(frozen=True)
class HFModelShape:
    """What a module's config says, and its dtype and device. `num_heads` counts query heads per layer, `head_width` is
    that of keys and values, `attention` names the attention implementation."""

    max_length: int | None
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    vocab_size: int | None
    attention: str | None
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, module: nn.Module) -> "HFModelShape":
        """ValueError names a field that the config lacks."""
        config, like = getattr(module, "config", None), next(module.parameters())

        def required(name: str) -> int:
            value = read(config, name)
            if value is None:
                raise ValueError(f"{type(module).__name__}: its config has no {name}; wrap its logits with "
                                 "LogitsFunction")
            return value

        num_heads = required("num_attention_heads")
        return cls(read(config, "max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len"),
                   required("num_hidden_layers"), num_heads, read(config, "num_key_value_heads") or num_heads,
                   read(config, "head_dim") or required("hidden_size") // num_heads, read(config, "vocab_size"),
                   read(config, "_attn_implementation"), getattr(module, "dtype", like.dtype), like.device)

    def new_store(self, num_rows: int, length: int) -> KVStore:
        return KVStore.empty(num_layers=self.num_layers, num_rows=num_rows, length=length,
                             num_kv_heads=self.num_kv_heads, head_width=self.head_width,
                             like=torch.empty((), dtype=self.dtype, device=self.device))


def local_layers(config: object, max_length: int) -> str | None:
    """The layers with local attention that a config names: types other than full attention, or windows shorter than
    max_length. None if it names none.

    A window that no layer uses does not count where the config lists the layers' types."""
    windows = [f"{name}={size}" for name, size in _fields(config) if _is_window(name) and 1 < size < max_length]
    kinds = read(config, "layer_types", "attention_layers")
    if kinds is None:
        return ", ".join(windows) or None
    wide = {"full_attention", "global"} | (set() if windows else {"sliding_attention", "chunked_attention", "local"})
    return ", ".join(sorted(set(kinds) - wide)) or None


def _is_window(name: str) -> bool:
    """Whether a field is the size of a window: sliding_window, window_size, attention_chunk_size, but not
    max_window_layers or sliding_window_pattern, which count layers."""
    return any(word in name for word in ("window", "attention_chunk", "local_attention")) \
        and not any(word in name for word in ("layers", "pattern"))


def special_tokens(module: nn.Module) -> set[int]:
    """The token ids that a module may treat specially: those in its configs and the padding ids of its embeddings."""
    tables = {table.padding_idx for table in module.modules()
              if isinstance(table, nn.Embedding) and table.padding_idx is not None}
    configs = (getattr(module, "config", None), getattr(module, "generation_config", None))
    return {number for config in configs for name, number in _fields(config)
            if "token" in name or name.endswith(("_id", "_ids", "_index"))} | tables


def _fields(config: object) -> Iterator[tuple[str, int]]:
    """Every integer in a config, nested configs and lists included, with its field's name."""
    to_dict = getattr(config, "to_dict", None)
    fields = {} if config is None else to_dict() if to_dict is not None else vars(config)
    yield from _numbers("", fields)


def _numbers(name: str, value: object) -> Iterator[tuple[str, int]]:
    if isinstance(value, int) and not isinstance(value, bool):
        yield name, value
    elif isinstance(value, dict):
        for inner, part in value.items():
            yield from _numbers(str(inner), part)
    elif isinstance(value, (list, tuple, set)):
        for part in value:
            yield from _numbers(name, part)
