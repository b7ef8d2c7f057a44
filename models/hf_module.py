"""Calls a Hugging Face module: hidden states without the head, attention masks in the form that it accepts, and our KV
store in place of its cache.

`get_output_embeddings()` gives the head. The forward takes input_ids, attention_mask and, if supported, position_ids
and a cache, which transformers names past_key_values up to 5.23 and cache from 5.24 on. No signature is read: a probe
tries the arguments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from .attention import AttentionMask
from .kv_store import KVStore, KVWrite


def uncompiled(module: nn.Module) -> nn.Module:
    """The module that torch.compile wrapped; other modules as they are."""
    return getattr(module, "_orig_mod", module)


def head_of(module: nn.Module) -> nn.Module:
    """The module's output embedding. ValueError if it has none."""
    getter = getattr(module, "get_output_embeddings", None)
    head = None if getter is None else getter()
    if head is None:
        raise ValueError(f"{type(module).__name__}: has no output embedding (get_output_embeddings); wrap its logits "
                         "with LogitsFunction")
    return head


def path_to(module: nn.Module, part: nn.Module) -> tuple[str, ...]:
    """The names that lead from a module to a part of it."""
    return next(tuple(name.split(".")) for name, found in module.named_modules() if found is part)


def replaced(module: nn.Module, path: Sequence[str], part: nn.Module) -> nn.Module:
    """A copy of the module that shares its weights and code but has another part at `path`. The module stays unchanged.
    Modules compiled by torch.compile on the way hold the old part: the copy runs them uncompiled."""
    if not path:
        return part
    inner = replaced(module._modules[path[0]] or part, path[1:], part)
    if uncompiled(module) is not module:
        return inner
    twin = object.__new__(type(module))
    twin.__dict__.update((name, _bound_to(twin, value, module)) for name, value in module.__dict__.items())
    twin.__dict__.update(_modules={**module._modules, path[0]: inner}, _compiled_call_impl=None)
    return twin


def _bound_to(twin: nn.Module, value: Any, module: nn.Module) -> Any:
    """Rebinds a method set on the module itself (accelerate and torch.compile set `forward`) to the copy."""
    if isinstance(value, partial) and any(argument is module for argument in value.args):
        arguments = (twin if argument is module else argument for argument in value.args)
        return partial(value.func, *arguments, **value.keywords)
    method = getattr(value, "_torchdynamo_orig_callable", value)
    return MethodType(method.__func__, twin) if isinstance(method, MethodType) and method.__self__ is module else value


class CapturingHead(nn.Module):
    """Stands in for a head: captures its input and runs the head on zero positions."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head, self.captured = head, list[Tensor]()

    def forward(self, states: Tensor, *further: Any) -> Tensor:
        self.captured.append(states)
        return self.head(states[:, :0] if states.is_floating_point() else states, *further)

    def __getattr__(self, name: str) -> Any:
        """Other attributes that a forward reads from its head, such as its weight."""
        modules = self.__dict__["_modules"]
        return modules[name] if name in modules else getattr(modules["head"], name)


@dataclass(frozen=True)
class HFModule:
    """A module, the path to its head, and whether its forward accepts `use_cache`. A call leaves the module unchanged:
    threads may share it."""

    module: nn.Module
    head_path: tuple[str, ...]
    accepts_use_cache: bool = False

    @property
    def name(self) -> str:
        return type(self.module).__name__

    @property
    def head(self) -> nn.Module:
        return head_of(self.module)

    def head_input(self, input_ids: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """The hidden states [B, F, E] that enter the head. The head itself runs on zero positions."""
        capturing = CapturingHead(self.head)
        self.outputs(input_ids, kwargs, capturing)
        captured = capturing.captured
        if len(captured) != 1 or captured[0].ndim != 3 or not captured[0].is_floating_point():
            raise ValueError(f"{self.name}: its forward does not end in its output embedding; wrap its logits with "
                             "LogitsFunction")
        return captured[0]

    def outputs(self, input_ids: Tensor, kwargs: dict[str, Any], head: nn.Module) -> Any:
        """The module's outputs with another head, and without a cache other than a store among the kwargs."""
        if self.accepts_use_cache:
            kwargs = kwargs | {"use_cache": any(isinstance(value, StoreAsCache) for value in kwargs.values())}
        return replaced(self.module, self.head_path, head)(input_ids=input_ids, **kwargs)


class HFMask(Protocol):
    def kwargs(self, mask: AttentionMask) -> dict[str, Any]:
        """The forward's keyword arguments for this mask."""
        ...


@dataclass(frozen=True)
class NoMask:
    """The module's own attention pattern; only padding is passed. Positions count from each row's first token."""

    def kwargs(self, mask: AttentionMask) -> dict[str, Any]:
        return {} if mask.end is None else {"attention_mask": (mask.key_BC < mask.end).long()}


@dataclass(frozen=True)
class AdditiveMask:
    """Position ids and a mask that is added to the attention scores, float [B, 1, F, C]. `first_id` is the id of
    position 0, `last_position` the largest position that the module has."""

    dtype: torch.dtype
    last_position: int
    first_id: int = 0

    def kwargs(self, mask: AttentionMask) -> dict[str, Any]:
        seen_B1FC = _seen(mask)
        mask_B1FC = torch.zeros_like(seen_B1FC, dtype=self.dtype).masked_fill(~seen_B1FC, torch.finfo(self.dtype).min)
        return {"attention_mask": mask_B1FC, "position_ids": _ids(mask, self.last_position, self.first_id)}


@dataclass(frozen=True)
class BooleanMask:
    """As AdditiveMask, but bool [B, 1, F, C], true where a key is seen."""

    last_position: int
    first_id: int = 0

    def kwargs(self, mask: AttentionMask) -> dict[str, Any]:
        return {"attention_mask": _seen(mask), "position_ids": _ids(mask, self.last_position, self.first_id)}


def _seen(mask: AttentionMask) -> Tensor:
    if mask.visible_BKFC is not None:
        return mask.visible_BKFC
    return mask.query_BF.new_ones(*mask.query_BF.shape, mask.key_BC.shape[1], dtype=torch.bool)[:, None]


def _ids(mask: AttentionMask, last_position: int, first_id: int) -> Tensor:
    return mask.query_BF.clamp(max=last_position) + first_id


@dataclass(frozen=True)
class StoreAsCache:
    """Our KV store with the interface of transformers' Cache. Each layer passes keys and values of the fed positions,
    [B, K, F, D], and receives those of the context, [B, K, C, D]. Further arguments are ignored."""

    write: KVWrite
    is_compileable: ClassVar[bool] = False

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
               ) -> tuple[Tensor, Tensor]:
        keys_BCKD, values_BCKD = self.write.put(layer_idx, key_states.transpose(1, 2), value_states.transpose(1, 2))
        return keys_BCKD.transpose(1, 2), values_BCKD.transpose(1, 2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


@dataclass(frozen=True)
class HFCacheInterface:
    """How a module reads stored keys and values: the form of its mask, and the argument that takes a cache."""

    hf_mask: HFMask
    cache_name: str

    def kwargs(self, mask: AttentionMask, slots_BF: Tensor, store: KVStore, context: int) -> dict[str, Any]:
        """The forward's keyword arguments for positions that are written to these slots and read `context` slots."""
        return self.hf_mask.kwargs(mask) | {self.cache_name: StoreAsCache(store.write(slots_BF, context))}
