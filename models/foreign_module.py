"""A module of another library as an adapter calls it: its hidden states without its head, masks in the forms that it
takes, and our store in the place of its cache.

`get_output_embeddings()` gives the head; the forward takes input_ids, attention_mask and, where it can be told more,
position_ids and a cache, which transformers calls past_key_values up to 5.23 and cache from 5.24 on. None of these is
looked up in a signature: a probe tries them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from .attention import View
from .kv_store import KVStore, KVWrite


def uncompiled(module: nn.Module) -> nn.Module:
    """What torch.compile made the module of; a module that it did not make as it is."""
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
    """A module with the weights and the code of this one, which stays as it is, but with another part at `path`. What
    torch.compile made of the modules on the way, which holds the old part, is left out."""
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
    """A method that lies on a module itself, as accelerate and torch.compile put their forward there, of its twin."""
    if isinstance(value, partial) and any(argument is module for argument in value.args):
        arguments = (twin if argument is module else argument for argument in value.args)
        return partial(value.func, *arguments, **value.keywords)
    method = getattr(value, "_torchdynamo_orig_callable", value)
    return MethodType(method.__func__, twin) if isinstance(method, MethodType) and method.__self__ is module else value


class CatchingHead(nn.Module):
    """In a head's place: keeps what enters it, and runs the head on no position."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head, self.caught = head, list[Tensor]()

    def forward(self, states: Tensor, *further: Any) -> Tensor:
        self.caught.append(states)
        return self.head(states[:, :0] if states.is_floating_point() else states, *further)

    def __getattr__(self, name: str) -> Any:
        """What a forward asks of its head besides, the dtype of its weight say."""
        modules = self.__dict__["_modules"]
        return modules[name] if name in modules else getattr(modules["head"], name)


@dataclass(frozen=True)
class ForeignModule:
    """A module, the way to its head, and whether its forward can be told to keep no cache of its own. A call leaves
    nothing on the module, so that threads may share it."""

    module: nn.Module
    head_path: tuple[str, ...]
    takes_use_cache: bool = False

    @property
    def name(self) -> str:
        return type(self.module).__name__

    @property
    def head(self) -> nn.Module:
        return head_of(self.module)

    def head_input(self, input_ids: Tensor, told: dict[str, Any]) -> Tensor:
        """The hidden states [B, F, E] that enter the module's head, whatever stands between its layers and the head;
        the head itself runs on no position."""
        catching = CatchingHead(self.head)
        self.outputs(input_ids, told, catching)
        caught = catching.caught
        if len(caught) != 1 or caught[0].ndim != 3 or not caught[0].is_floating_point():
            raise ValueError(f"{self.name}: its forward does not end in its output embedding; wrap its logits with "
                             "LogitsFunction")
        return caught[0]

    def outputs(self, input_ids: Tensor, told: dict[str, Any], head: nn.Module) -> Any:
        """What the module gives with another head, and without a cache but for the store that it may be told of."""
        if self.takes_use_cache:
            told = told | {"use_cache": any(isinstance(value, StoreAsCache) for value in told.values())}
        return replaced(self.module, self.head_path, head)(input_ids=input_ids, **told)


class Masks(Protocol):
    def arguments(self, view: View) -> dict[str, Any]:
        """What the forward is told of who sees whom."""
        ...


@dataclass(frozen=True)
class OwnMasks:
    """The module masks by itself, and is told of padding alone; positions count from each row's first token."""

    def arguments(self, view: View) -> dict[str, Any]:
        return {} if view.end is None else {"attention_mask": (view.key_BC < view.end).long()}


@dataclass(frozen=True)
class AddedMasks:
    """The module adds a mask to its attention scores, float [B, 1, F, C], and is told the positions: `first_id` stands
    for the first, and `last_position` is the last it knows."""

    dtype: torch.dtype
    last_position: int
    first_id: int = 0

    def arguments(self, view: View) -> dict[str, Any]:
        seen_B1FC = _seen(view)
        mask_B1FC = torch.zeros_like(seen_B1FC, dtype=self.dtype).masked_fill(~seen_B1FC, torch.finfo(self.dtype).min)
        return {"attention_mask": mask_B1FC, "position_ids": _ids(view, self.last_position, self.first_id)}


@dataclass(frozen=True)
class BooleanMasks:
    """The same with true where a key is seen, bool [B, 1, F, C]."""

    last_position: int
    first_id: int = 0

    def arguments(self, view: View) -> dict[str, Any]:
        return {"attention_mask": _seen(view), "position_ids": _ids(view, self.last_position, self.first_id)}


def _seen(view: View) -> Tensor:
    if view.visible_BKFC is not None:
        return view.visible_BKFC
    return view.query_BF.new_ones(*view.query_BF.shape, view.key_BC.shape[1], dtype=torch.bool)[:, None]


def _ids(view: View, last_position: int, first_id: int) -> Tensor:
    return view.query_BF.clamp(max=last_position) + first_id


@dataclass(frozen=True)
class StoreAsCache:
    """A write to our store in the shape of transformers' Cache: each layer hands over the keys and values of the fed
    positions, [B, K, F, D], and gets those of the context, [B, K, C, D]. What a version passes beside them is of no use
    to a store."""

    write: KVWrite
    is_compileable: ClassVar[bool] = False

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

    def arguments(self, view: View, slots_BF: Tensor, store: KVStore, context: int) -> dict[str, Any]:
        """For positions that are written to these slots, and see the first `context` slots."""
        return self.masks.arguments(view) | {self.cache_name: StoreAsCache(store.write(slots_BF, context))}
