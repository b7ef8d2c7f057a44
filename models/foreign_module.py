"""A module of another library as an adapter calls it: its shape, its hidden states without its head, masks in the forms
that it takes, and our store in the place of its cache.

The conventions are those of Hugging Face's transformers, by duck typing: `config` tells the shape,
`get_output_embeddings()` gives the head, and `forward` takes input_ids, attention_mask and, where it can be told more,
position_ids and a cache, which transformers calls past_key_values up to 5.23 and cache from 5.24 on.
"""

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .attention import View
from .kv_store import KVStore, KVWrite


def read(config: object, *names: str) -> Any:
    """The first of these fields of a config that is there and not None; None if none is."""
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)


@dataclass(frozen=True)
class ForeignShape:
    """What a config says of a module: heads are those of queries, a layer; head_width is that of keys and values."""

    max_length: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, module: nn.Module, max_length: int | None) -> "ForeignShape":
        """ValueError names what the config does not say."""
        config, like = getattr(module, "config", None), next(module.parameters())

        def must(name: str, *others: str) -> int:
            value = read(config, name, *others)
            if value is None:
                raise ValueError(f"{type(module).__name__}: its config does not say {name}; wrap its logits with "
                                 "LogitsFunction")
            return value

        if max_length is None:
            max_length = read(config, "max_position_embeddings", "n_positions", "max_sequence_length")
        if max_length is None:
            raise ValueError(f"{type(module).__name__}: its config does not say how many positions it knows; give "
                             "max_length")
        num_heads = must("num_attention_heads")
        return cls(max_length, must("num_hidden_layers"), num_heads, read(config, "num_key_value_heads") or num_heads,
                   read(config, "head_dim") or must("hidden_size") // num_heads, getattr(module, "dtype", like.dtype),
                   like.device)

    def new_store(self, num_rows: int, length: int) -> KVStore:
        return KVStore.empty(num_layers=self.num_layers, num_rows=num_rows, length=length,
                             num_kv_heads=self.num_kv_heads, head_width=self.head_width,
                             like=torch.empty((), dtype=self.dtype, device=self.device))


def narrow_layers(module: nn.Module, max_length: int) -> str | None:
    """Which layers see less than the others, in words: those of another type than full attention, or with a window
    shorter than the longest sequence. None: none."""
    config = getattr(module, "config", None)
    kinds = set(read(config, "layer_types") or ["full_attention"])
    window = read(config, "sliding_window")
    if "layer_types" not in dir(config) and window is not None:
        kinds = {"sliding_attention"}
    if window is not None and window >= max_length:
        kinds -= {"sliding_attention"}
    kinds -= {"full_attention"}
    return ", ".join(sorted(kinds)) or None


def head_of(module: nn.Module) -> nn.Module:
    """The module's output embedding. ValueError if it has none."""
    getter = getattr(module, "get_output_embeddings", None)
    head = None if getter is None else getter()
    if head is None:
        raise ValueError(f"{type(module).__name__}: has no output embedding (get_output_embeddings); wrap its logits "
                         "with LogitsFunction")
    return head


@cache
def _arguments(kind: type[nn.Module]) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


def takes(module: nn.Module, argument: str) -> bool:
    """Whether the module's forward names the argument."""
    return argument in _arguments(type(module))


def head_input(module: nn.Module, arguments: dict[str, Any]) -> Tensor:
    """The hidden states [B, F, E] that enter the module's head, whatever stands between its layers and the head; the
    head itself runs on no position."""
    caught: list[Tensor] = []

    def catch(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        caught.append(inputs[0])
        return (inputs[0][:, :0],) if inputs[0].is_floating_point() else inputs

    handle = head_of(module).register_forward_pre_hook(catch)
    try:
        module(**arguments)
    finally:
        handle.remove()
    if len(caught) != 1 or caught[0].ndim != 3 or not caught[0].is_floating_point():
        raise ValueError(f"{type(module).__name__}: its forward does not end in its output embedding; wrap its logits "
                         "with LogitsFunction")
    return caught[0]


class Masks(Protocol):
    def arguments(self, view: View) -> dict[str, Tensor]:
        """What the forward is told of who sees whom."""
        ...


@dataclass(frozen=True)
class OwnMasks:
    """The module masks by itself, and is told of padding alone; positions count from each row's first token."""

    def arguments(self, view: View) -> dict[str, Tensor]:
        return {} if view.end is None else {"attention_mask": (view.key_BC < view.end).long()}


@dataclass(frozen=True)
class AddedMasks:
    """The module adds a mask to its attention scores, float [B, 1, F, C], and is told the positions, of which
    `last_position` is the last it knows."""

    dtype: torch.dtype
    last_position: int

    def arguments(self, view: View) -> dict[str, Tensor]:
        seen_B1FC = _seen(view)
        mask_B1FC = torch.zeros_like(seen_B1FC, dtype=self.dtype).masked_fill(~seen_B1FC, torch.finfo(self.dtype).min)
        return {"attention_mask": mask_B1FC, "position_ids": view.query_BF.clamp(max=self.last_position)}


@dataclass(frozen=True)
class BooleanMasks:
    """The same with true where a key is seen, bool [B, 1, F, C]."""

    last_position: int

    def arguments(self, view: View) -> dict[str, Tensor]:
        return {"attention_mask": _seen(view), "position_ids": view.query_BF.clamp(max=self.last_position)}


def _seen(view: View) -> Tensor:
    if view.mask_B1FC is not None:
        return view.mask_B1FC
    return view.query_BF.new_ones(*view.query_BF.shape, view.key_BC.shape[1], dtype=torch.bool)[:, None]


@dataclass(frozen=True)
class StoreAsCache:
    """A write to our store in the shape of transformers' Cache: each layer hands over the keys and values of the fed
    positions, [B, K, F, D], and gets those of the context, [B, K, C, D]. What a version passes beside them is of no use
    to a store."""

    write: KVWrite

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
               ) -> tuple[Tensor, Tensor]:
        keys_BCKD, values_BCKD = self.write.put(layer_idx, key_states.transpose(1, 2), value_states.transpose(1, 2))
        return keys_BCKD.transpose(1, 2), values_BCKD.transpose(1, 2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


@dataclass(frozen=True)
class Storing:
    """How a module is shown stored keys and values: by masks, and by a cache in the argument of this name."""

    masks: Masks
    cache_name: str

    def arguments(self, module: nn.Module, view: View, write: KVWrite) -> dict[str, Any]:
        told = self.masks.arguments(view) | {self.cache_name: StoreAsCache(write)}
        return told | {"use_cache": True} if takes(module, "use_cache") else told


def uncached(module: nn.Module) -> dict[str, bool]:
    """What the forward is told so that it keeps nothing."""
    return {"use_cache": False} if takes(module, "use_cache") else {}
