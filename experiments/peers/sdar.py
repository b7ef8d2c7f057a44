"""SDAR's `block_diffusion_generate` against ours: static, dynamic and sequential, block-causal with a KV cache.

It draws tokens with torch.multinomial and has no greedy mode (top_k=1 would make every confidence 1); both of its runs
here replace multinomial by the most probable token, at temperature 1. Its static and dynamic quotas are not capped at
the masks left: with fewer masks its top-k also selects committed tokens and prompt tokens, and overwrites them. The
repaired run caps top-k at the masked positions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Protocol
from unittest import mock

import torch
from torch import Tensor

from ...decoders import (
    BlockCausalCache,
    BlockCausalCacheApart,
    Cache,
    Decoder,
    Even,
    Floor,
    Greedy,
    GridBlocks,
    Leftmost,
    Threshold,
    TopProbability,
)
from ...models import BlockCausal, DecodableTransformer
from ..harness.records import describe
from .base import Case, Comparison, Finding, RandomModels, Source, compared
from .views import logits_of

HOME = "github.com/JetAstra/SDAR"
FILE, FUNCTION = "generate.py", "block_diffusion_generate"
END_ID = 3
UNBOUNDED_QUOTA = ("their quota may exceed the masks that are left and overwrites committed tokens; bounded by these, "
                   "theirs is ours")


class Store(Protocol):
    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Append one layer's keys and values, [B, K, F, D] each, and return all of the layer's."""
        ...


@dataclass(frozen=True)
class Stored:
    """A block-causal model as SDAR calls it, with the caller's KV cache and mask."""

    model: DecodableTransformer

    @property
    def device(self) -> torch.device:
        return self.model.spec.device

    def eval(self) -> None:
        """It is always in evaluation mode."""

    def __call__(self, tokens_BF: Tensor, *, attention_mask: Tensor, position_ids: Tensor, past_key_values: Store,
                 use_cache: bool, store_kv: bool) -> SimpleNamespace:
        assert use_cache
        store = past_key_values if store_kv else deepcopy(past_key_values)
        return SimpleNamespace(logits=logits_of(self.model, tokens_BF, position_ids,
                                                lambda layer, k, v: store.update(k, v, layer), attention_mask == 1))


def most_probable(probs_TV: Tensor, num_samples: int) -> Tensor:
    """Replaces torch.multinomial: int64 [T, 1]."""
    assert num_samples == 1
    return probs_TV.argmax(-1, keepdim=True)


def bounded_topk(score_S: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Replaces torch.topk: only finite scores are selected."""
    values_K, index_K = score_S.topk(min(int(k), int(score_S.isfinite().sum())))
    return values_K, index_K


@contextmanager
def _mended(bounded: bool) -> Iterator[None]:
    with mock.patch.object(torch, "multinomial", most_probable), \
            mock.patch.object(torch, "topk", bounded_topk if bounded else torch.topk):
        yield


@dataclass(frozen=True)
class Setting:
    """Options of SDAR's function; `tau` is None except for the dynamic strategy."""

    strategy: str
    block: int
    steps: int
    tau: float | None = None
    end_id: int | None = None

    def ours(self, cache: Cache) -> Decoder:
        schedule = Even(self.steps)
        if self.tau is not None:
            return Decoder(GridBlocks(self.block), Floor(schedule), Greedy(), Threshold(self.tau), cache, self.end_id)
        policy = Leftmost() if self.strategy == "sequential" else TopProbability()
        return Decoder(GridBlocks(self.block), schedule, Greedy(), policy, cache, self.end_id)

    def theirs(self, sdar: ModuleType, num_new: int, model: DecodableTransformer, prompt: list[int], *, bounded: bool
               ) -> list[int]:
        with torch.inference_mode(), _mended(bounded):
            tokens_BL = sdar.block_diffusion_generate(
                Stored(model), {"input_ids": torch.tensor([prompt])}, model.mask_id, gen_length=num_new,
                block_length=self.block, denoising_steps=self.steps, remasking_strategy=self.strategy,
                confidence_threshold=self.tau, eb_threshold=0.5,
                stopping_criteria_idx=None if self.end_id is None else [self.end_id])
        return tokens_BL[0].tolist()

    def cases(self, sdar: ModuleType, num_new: int, *, repaired: bool) -> list[Case]:
        def engine(bounded: bool):
            return lambda model, prompt: self.theirs(sdar, num_new, model, prompt, bounded=bounded)

        return [Case(self.ours(cache), engine(False), engine(True) if repaired else None)
                for cache in (BlockCausalCache(), BlockCausalCacheApart())]


def agreement(checkout: Path, num_models: int = 20) -> Iterator[Comparison[Finding]]:
    """Findings by strategy. ValueError if the checkout lacks the function."""
    sdar = Source("--sdar", checkout, HOME).load(FILE, FUNCTION)

    def found(name: str, settings: list[Setting], prompt_length: int = 8, defect: str = ""
              ) -> Comparison[Finding]:
        (block,) = {setting.block for setting in settings}
        models = RandomModels(num_models, prompt_length, 32 - prompt_length, pattern=BlockCausal(block))
        cases = [case for setting in settings for case in setting.cases(sdar, models.num_new, repaired=bool(defect))]
        return compared(Finding("SDAR", name, 0, 0, note=defect), cases, models)

    for block, all_steps in ((4, (4, 2, 1)), (8, (8, 5, 3))):
        settings = [Setting("low_confidence_static", block, steps) for steps in all_steps]
        yield found(f"static, blocks of {block}, {', '.join(map(str, all_steps))} steps", settings)
    dynamic = [Setting("low_confidence_dynamic", 4, 4, tau) for tau in (0.85, 0.5, 0.25)]
    yield found("dynamic, blocks of 4, 4 steps, tau 0.85, 0.5, 0.25", dynamic)
    yield found("sequential, blocks of 4, 4, 2, 1 steps", [Setting("sequential", 4, steps) for steps in (4, 2, 1)])
    every = [Setting("low_confidence_static", 4, 4), dynamic[1], Setting("sequential", 4, 4)]
    yield found("static, dynamic and sequential, the prompt ending within a block", every, prompt_length=6)
    ended = [Setting(setting.strategy, 4, 4, setting.tau, END_ID) for setting in every]
    yield found("static, dynamic and sequential, stopping after the block of an end token", ended)
    yield found("static, blocks of 4, 2, 1 steps, the prompt leaving one mask in a block",
                [Setting("low_confidence_static", 4, steps) for steps in (2, 1)], 7, UNBOUNDED_QUOTA)
    yield found("dynamic, blocks of 8, 4, 2 steps, tau 0.5, 0.25",
                [Setting("low_confidence_dynamic", 8, steps, tau) for steps in (4, 2) for tau in (0.5, 0.25)], 8,
                UNBOUNDED_QUOTA)
    models = RandomModels(num_models, pattern=BlockCausal(4))
    yield Comparison("SDAR", "entropy_bounded", {"models": describe(models)}, lambda: _entropy_bounded(sdar, models))


def _entropy_bounded(sdar: ModuleType, models: RandomModels) -> Finding:
    """Counts the runs in which the strategy fails on an unassigned name."""
    num_failed = 0
    for model, prompt in models:
        try:
            Setting("entropy_bounded", 4, 4).theirs(sdar, models.num_new, model, prompt, bounded=False)
        except UnboundLocalError as error:
            num_failed += "transfer_index" in str(error)
    return Finding("SDAR", "entropy_bounded", models.num_models, 0, num_failed,
                   note="UnboundLocalError at the first step: the branch never creates transfer_index")
