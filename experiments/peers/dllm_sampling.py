"""dllm's files as modules, and its samplers on our model."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ...models import DecodableTransformer
from .base import Engine, Source
from .views import logits_of

NUM_NEW = 24
_PACKAGES = ("dllm", "dllm.core", "dllm.pipelines", "dllm.pipelines.dream", "dllm.pipelines.dream.models")
Pairs = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, [B, K, C, D]."""


def load(source: Source, file: str, *names: str) -> ModuleType:
    """A file of dllm as a module, without its package, which imports all dependencies of training."""
    packages = {name: ModuleType(name) for name in _PACKAGES}
    for name, package in packages.items():
        package.__path__ = [str(source.checkout.joinpath(*name.split(".")))]
    return source.load(file, *names, stand_ins=packages)


@dataclass(frozen=True)
class Called:
    """A model as dllm calls one. The attention mask is [B, 1, F, C] (visible: true or 0), or all ones. The caller keeps
    keys and values; those at `replace_position` (bool [B, C]) are replaced, others appended."""

    model: DecodableTransformer

    @property
    def device(self) -> torch.device:
        return self.model.spec.device

    def __call__(self, tokens_BF: Tensor, attention_mask: Tensor, position_ids: Tensor | None = None,
                 past_key_values: Pairs | None = None, use_cache: bool = False, replace_position: Tensor | None = None
                 ) -> SimpleNamespace:
        past, kept = past_key_values or [], []
        if replace_position is not None:
            position_BF = replace_position.nonzero()[:, 1][None]
        elif position_ids is not None:
            position_BF = position_ids
        else:
            position_BF = (past[0][0].shape[2] if past else 0) + torch.arange(tokens_BF.shape[1])[None]

        def merge(layer: int, k_BKFD: Tensor, v_BKFD: Tensor) -> tuple[Tensor, Tensor]:
            if replace_position is not None:
                k_BKCD, v_BKCD = (old.index_copy(2, position_BF[0], new)
                                  for old, new in zip(past[layer], (k_BKFD, v_BKFD), strict=True))
            elif past:
                k_BKCD, v_BKCD = (torch.cat(pair, 2) for pair in zip(past[layer], (k_BKFD, v_BKFD), strict=True))
            else:
                k_BKCD, v_BKCD = k_BKFD, v_BKFD
            kept.append((k_BKCD, v_BKCD))
            return k_BKCD, v_BKCD

        # The padding id is not in the vocabulary.
        logits_BFV = logits_of(self.model, tokens_BF.clamp(min=0), position_BF.expand_as(tokens_BF), merge,
                               _visible(attention_mask))
        return SimpleNamespace(logits=logits_BFV, past_key_values=kept if use_cache else None)


def _visible(attention_mask: Tensor) -> Tensor | None:
    """Which keys each query sees, bool [B, F, C]; None: all."""
    if attention_mask.ndim == 2:
        assert bool((attention_mask == 1).all())
        return None
    visible_BFC = attention_mask[:, 0] if attention_mask.dtype == torch.bool else attention_mask[:, 0] == 0
    # Padding sees no key, for which softmax gives NaN; no query sees padding, so it may see every key.
    return visible_BFC | ~visible_BFC.any(-1, keepdim=True)


@dataclass(frozen=True)
class Sampling:
    """One of dllm's samplers: its class, its arguments besides a model and a tokenizer, and the tokenizer's end and
    padding ids. The default padding id is not in the vocabulary."""

    sampler: Callable[..., Any]
    built_with: dict[str, Any] = field(default_factory=dict)
    end_id: int | None = 0
    pad_id: int = -1

    def of(self, model: DecodableTransformer) -> Any:
        ids = SimpleNamespace(mask_token_id=model.mask_id, bos_token_id=0, eos_token_id=self.end_id,
                              pad_token_id=self.pad_id)
        return self.sampler(Called(model), ids, **self.built_with)

    def engine(self, options: dict[str, Any], block: int = 1) -> Engine:
        """Its decode of NUM_NEW tokens, without the padding of the prompt to a multiple of `block`, with masks after an
        early stop; [] if it ran out of quotas."""
        def theirs(model: DecodableTransformer, prompt: list[int]) -> list[int]:
            try:
                with torch.inference_mode():
                    tokens_BL = self.of(model).sample([prompt], max_new_tokens=NUM_NEW, **options)
            except IndexError:
                return []
            tokens = tokens_BL[0, -len(prompt) % block :].tolist()
            return tokens + [model.mask_id] * (len(prompt) + NUM_NEW - len(tokens))

        return theirs
