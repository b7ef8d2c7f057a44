"""Fast-dLLM's three loops (github.com/NVlabs/Fast-dLLM, arXiv 2505.22618): no cache, prefix and dual cache, with a
fixed quota, a threshold, and the factor rule if the checkout has it. They run on a plain view of our transformer
without third-party packages; fast_dllm_model.py runs them on their own model file.

Their cached loops index past a fixed quota of one step per block (IndexError), so two steps are the fewest here. Their
factor rule commits one position too many if the last of a block's masks is the first to fail.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ...decoders import (
    Blocks,
    Cache,
    Decoder,
    Dual,
    Factor,
    Greedy,
    Linear,
    Prefix,
    Recompute,
    Threshold,
    TopProbability,
    Unbounded,
)
from ...models import DecodableTransformer
from .base import Case, Comparison, Engine, Finding, RandomModels, Source, compared, stub_module
from .views import logits_of

HOME = "github.com/NVlabs/Fast-dLLM"
FILE = "llada/generate.py"
LOOPS: dict[str, tuple[str, Cache]] = {"no cache": ("generate", Recompute()),
                                       "prefix": ("generate_with_prefix_cache", Prefix()),
                                       "dual": ("generate_with_dual_cache", Dual())}
_BLOCKS, _TAUS, _FACTORS = (24, 12, 6), (0.5, 0.7, 0.9), (0.5, 1.0, 2.0)
_DYNAMIC = "get_transfer_index_dynamic"

FACTOR_DEFECT = ("where a block's last ranked mask is the first to fail it is committed too, and a block without masks "
                 "is an IndexError: with the rule as published in its place, the differing decodes give our tokens")

KeysValues = Sequence[tuple[Tensor, Tensor]]
View = Callable[[DecodableTransformer], Any]
"""Wraps our model as the object that their loops call."""


@dataclass(frozen=True)
class Cached:
    """A model as their loops call it. Keys and values of a layer are [B, K, C, D] each: new ones are appended, or
    written at the slots that replace_position (bool [1, C]) marks."""

    model: DecodableTransformer

    @property
    def device(self) -> torch.device:
        return self.model.spec.device

    def __call__(self, tokens_BF: Tensor, past_key_values: KeysValues | None = None, use_cache: bool = False,
                 replace_position: Tensor | None = None) -> SimpleNamespace:
        begin = 0 if past_key_values is None else past_key_values[0][0].shape[2]
        position_F = torch.arange(begin, begin + tokens_BF.shape[1])
        if replace_position is not None:
            position_F = replace_position[0].nonzero().squeeze(1)
        kept: list[tuple[Tensor, Tensor]] = []

        def merge(layer: int, k_BKFD: Tensor, v_BKFD: Tensor) -> tuple[Tensor, Tensor]:
            k_BKCD, v_BKCD = k_BKFD, v_BKFD
            if past_key_values is not None:
                k_BKCD, v_BKCD = past_key_values[layer]
                if replace_position is None:
                    k_BKCD, v_BKCD = torch.cat((k_BKCD, k_BKFD), dim=2), torch.cat((v_BKCD, v_BKFD), dim=2)
                else:
                    k_BKCD[:, :, position_F], v_BKCD[:, :, position_F] = k_BKFD, v_BKFD
            kept.append((k_BKCD, v_BKCD))
            return k_BKCD, v_BKCD

        logits_BFV = logits_of(self.model, tokens_BF, position_F.expand_as(tokens_BF), merge)
        return SimpleNamespace(logits=logits_BFV, past_key_values=kept if use_cache else None)


def loaded(checkout: Path) -> ModuleType:
    """Their generate.py as a module, without importing transformers or their model file."""
    return Source("--fast-dllm", checkout, HOME).load(
        FILE, *(function for function, _ in LOOPS.values()),
        stand_ins=(stub_module("transformers", "AutoTokenizer", "AutoModel")
                   | stub_module("model.modeling_llada", "LLaDAModelLM")))


def _factor_rule(logits_1FV: Tensor, temperature: float, remasking: str, mask_1F: Tensor, tokens_1F: Tensor,
                 num_transfer_tokens: None, factor: float) -> tuple[Tensor, Tensor]:
    """Their get_transfer_index_dynamic without its defect: the largest n with (n + 1) (1 - p_n) <= factor, at least
    one, and none if nothing is masked."""
    prob_F, token_F = logits_1FV[0].double().softmax(-1).max(-1)
    order = sorted(mask_1F[0].nonzero().flatten().tolist(), key=lambda position: -prob_F[position].item())
    passing = [rank for rank, position in enumerate(order, 1) if (rank + 1) * (1 - prob_F[position].item()) <= factor]
    transfer_1F = torch.zeros_like(mask_1F)
    transfer_1F[0, order[: max([1, *passing])]] = True
    return torch.where(mask_1F, token_F[None], tokens_1F), transfer_1F


@dataclass(frozen=True)
class Loop:
    """One of their loops, on a view of our model. `rule` are its options besides the schedule."""

    module: ModuleType
    name: str
    view: View

    def engine(self, block: int, steps: int, length: int, rule: Mapping[str, float]) -> Engine:
        generate = getattr(self.module, LOOPS[self.name][0])

        def decode(model: DecodableTransformer, prompt: list[int]) -> list[int]:
            return generate(self.view(model), torch.tensor([prompt]), steps=steps, gen_length=length,
                            block_length=block, temperature=0.0, mask_id=model.mask_id, **rule)[0][0].tolist()

        return decode

    def quotas(self, length: int) -> list[Case]:
        """Every schedule that the loop can run: a cached one needs two steps per block."""
        fewest, cache = (1 if self.name == "no cache" else 2), LOOPS[self.name][1]
        settings = [(block, steps) for block in _BLOCKS for steps in (24, 12, 8, 4)
                    if steps * block % length == 0 and steps * block // length >= fewest]
        return [Case(Decoder(Blocks(block), Linear(steps * block // length), Greedy(), TopProbability(), cache),
                     self.engine(block, steps, length, {})) for block, steps in settings]

    def thresholds(self, length: int) -> list[Case]:
        cache = LOOPS[self.name][1]
        return [Case(Decoder(Blocks(block), Unbounded(), Greedy(), Threshold(tau), cache),
                     self.engine(block, length, length, {"threshold": tau})) for block in _BLOCKS for tau in _TAUS]

    def factors(self, length: int) -> list[Case]:
        cache = LOOPS[self.name][1]
        return [Case(Decoder(Blocks(block), Unbounded(), Greedy(), Factor(factor), cache),
                     *self.with_and_without_fault(block, length, factor)) for block in _BLOCKS for factor in _FACTORS]

    def with_and_without_fault(self, block: int, length: int, factor: float) -> tuple[Engine, Engine]:
        """Their loop with a factor as is, and with their rule replaced by `_factor_rule`."""
        engine = self.engine(block, length, length, {"factor": factor})
        return self._unless_it_fails(engine), self._repaired(engine)

    def _unless_it_fails(self, engine: Engine) -> Engine:
        def decode(model: DecodableTransformer, prompt: list[int]) -> list[int]:
            try:
                return engine(model, prompt)
            except IndexError:  # the rule's list of thresholds is empty once a block's first forward finished it
                return []

        return decode

    def _repaired(self, engine: Engine) -> Engine:
        def decode(model: DecodableTransformer, prompt: list[int]) -> list[int]:
            names = vars(self.module)
            theirs, names[_DYNAMIC] = names[_DYNAMIC], _factor_rule
            try:
                return engine(model, prompt)
            finally:
                names[_DYNAMIC] = theirs

        return decode


def findings(peer: str, module: ModuleType, view: View, models: RandomModels) -> Iterator[Comparison[Finding]]:
    """The findings for a module with the three loops."""
    length = models.num_new
    for name in LOOPS:
        loop = Loop(module, name, view)
        quotas, thresholds = loop.quotas(length), loop.thresholds(length)
        yield compared(Finding(peer, f"{name}, {len(quotas)} of blocks x steps"), quotas, models)
        yield compared(Finding(peer, f"{name}, threshold {', '.join(map(str, _TAUS))}, 3 block sizes"), thresholds,
                       models)
        if "factor" in inspect.signature(getattr(module, LOOPS[name][0])).parameters:
            yield compared(Finding(peer, f"{name}, factor {', '.join(map(str, _FACTORS))}, 3 block sizes",
                                   note=FACTOR_DEFECT), loop.factors(length), models)


def agreement(checkout: Path, num_models: int = 20) -> Iterator[Comparison[Finding]]:
    yield from findings("Fast-dLLM", loaded(checkout), Cached, RandomModels(num_models))
