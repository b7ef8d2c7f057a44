"""Where in a GGUF file the tensors of a family lie, by their published names."""

import re
from dataclasses import dataclass

from ..families.tensor_names import TensorNames
from .gguf_architectures import Architecture
from .gguf_header import Header, StoredTensor

_IN_BLOCK = re.compile(r"blk\.(0|[1-9][0-9]*)\.(\w+)")


@dataclass(frozen=True)
class Source:
    """A tensor of the file, or its `expert`. Where there are `heads`, the rows of each head are in llama.cpp's order:
    those of half a head apart are neighbours."""

    tensor: StoredTensor
    expert: int | None = None
    heads: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape if self.expert is None else self.tensor.shape[1:]


def sources(header: Header, architecture: Architecture, heads: tuple[int, int]) -> dict[str, Source]:
    """All tensors of the file but the rotary divisors; `heads` are those of queries and of keys. What is in no family
    keeps its name, for `load` to refuse."""
    names = architecture.names
    top = {"token_embd": names.embedding, "output_norm": names.norm, "output": names.head}
    permuted: dict[str, int] = {}
    if architecture.permutes:
        permuted = {"attn_q": heads[0], "attn_k": heads[1]}
    within, stacks = _within(names), _stacks(names)
    found: dict[str, Source] = {}
    for name, tensor in header.tensors.items():
        stem, _, ending = name.rpartition(".")
        in_block = _IN_BLOCK.fullmatch(stem)
        layer, part = (names.layer.format(layer=in_block[1]), in_block[2]) if in_block else ("", "")
        if name == "rope_freqs.weight":
            continue
        if ending not in ("weight", "bias"):
            found[name] = Source(tensor)
        elif stem in top:
            found[f"{top[stem]}.{ending}"] = Source(tensor)
        elif part in within:
            found[f"{layer}{within[part]}.{ending}"] = Source(tensor, heads=permuted.get(part))
        elif part in stacks:
            found |= {f"{layer}{stacks[part].format(expert=expert)}.{ending}": Source(tensor, expert)
                      for expert in range(tensor.shape[0])}
        else:
            found[name] = Source(tensor)
    return found


def _within(names: TensorNames) -> dict[str, str]:
    q, k, v = names.qkv
    gate, up = names.gate_up
    return {"attn_norm": names.attention_norm, "ffn_norm": names.ffn_norm, "attn_q": q, "attn_k": k, "attn_v": v,
            "attn_output": names.o, "attn_q_norm": names.q_norm, "attn_k_norm": names.k_norm, "ffn_gate": gate,
            "ffn_up": up, "ffn_down": names.down, "ffn_gate_inp": names.router}


def _stacks(names: TensorNames) -> dict[str, str]:
    gate, up = names.expert_gate_up
    return {"ffn_gate_exps": gate, "ffn_up_exps": up, "ffn_down_exps": names.expert_down}
