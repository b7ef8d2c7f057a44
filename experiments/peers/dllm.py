"""dllm's samplers against ours: MDLM (sampling and infilling), BD3LM, Dream, and its Fast-dLLM for LLaDA.

Their quota is round(m (1 - (1 - alpha(s)) / (1 - alpha(t)))) of the current m masks, half to even; steps without a
commit are dropped. With alpha = 1 - t it equals our Linear if the steps divide a block's masks or are no fewer.
`Rounded` is the rule itself with its float32 times, whose rounding error breaks the linear schedule's ties.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ...decoders import (
    BlockCausalCache,
    Blocks,
    Cache,
    ClassifierFree,
    Decoder,
    Dual,
    Factor,
    Greedy,
    GridBlocks,
    Linear,
    Policy,
    Prefix,
    Quota,
    Recompute,
    Request,
    Schedule,
    StepState,
    Threshold,
    Times,
    TopProbability,
    Unbounded,
)
from ...models import BlockCausal
from ..harness.records import describe
from .agreement import close_decisions
from .base import Case, Comparison, Finding, RandomModels, Source, compared
from .dllm_sampling import NUM_NEW, Sampling, load
from .dream import ORDERS

HOME = "github.com/ZHZisZZ/dllm"
SCHEDULERS, MDLM, BD3LM, DREAM, FAST_DLLM = (f"dllm/{file}.py" for file in (
    "core/schedulers/alpha", "core/samplers/mdlm", "core/samplers/bd3lm", "pipelines/dream/sampler",
    "pipelines/fastdllm/llada/sampler"))
FILES = (SCHEDULERS, MDLM, BD3LM, DREAM, FAST_DLLM)
END_ID = 3
ROUNDED = "the quota is Rounded, which none of the decoders' schedules is"
FROM_PROMPT = "their blocks count from the prompt's end: the model's must, too"
PADDING = ("their BD3LM hides every token equal to the padding id, also generated ones; with an id outside the "
           "vocabulary theirs is ours")
TOLD_STEPS = ("under a threshold or factor their loop still ends (dual), or reads past its quotas, after the steps it "
              "was told; told as many as masks, theirs is ours")
INFILLING = "infilling, blocks of 32, 16, 8"
CACHES: dict[str | None, Cache] = {None: Recompute(), "prefix": Prefix(), "dual": Dual()}


@dataclass(frozen=True)
class Rounded(Schedule):
    """The expected number of commits among the current masks, rounded, in `steps` steps. `alpha` is the share committed
    at a time from 1 to 0 (float32)."""

    steps: int
    alpha: Callable[[Tensor], Tensor]

    def quota(self, state: StepState) -> Quota:
        before_B, after_B = self.times(state)
        share_B = (state.num_masked_B * (1 - after_B / before_B).double()).round().long()
        share_B = torch.minimum(share_B, state.num_masked_B)
        return Quota(share_B, share_B)

    def times(self, state: StepState) -> Times:
        return Times(*(1 - self.alpha(((self.steps - state.step_B - later).clamp(min=0).double() / self.steps).float())
                       for later in (0, 1)))


@dataclass(frozen=True)
class LinearAlpha:
    def __call__(self, time: Tensor) -> Tensor:
        return 1 - time


@dataclass(frozen=True)
class CosineAlpha:
    def __call__(self, time: Tensor) -> Tensor:
        return 1 - ((1 - time) * (torch.pi / 2)).cos()


@dataclass(frozen=True)
class BlocksFromPrompt:
    """Block-causal attention on a grid of blocks shifted by `first` positions from the row's start."""

    block: int
    first: int

    def visible(self, query_BQ: Tensor, key_BC: Tensor) -> Tensor:
        return ((key_BC - self.first) // self.block)[:, None, :] <= ((query_BQ - self.first) // self.block)[:, :, None]

    def stop(self, query_BQ: Tensor) -> Tensor:
        return ((query_BQ - self.first) // self.block + 1) * self.block + self.first


def decoder(block: int, schedule: Schedule, policy: Policy | None = None, cache: Cache | None = None) -> Decoder:
    return Decoder(Blocks(block), schedule, Greedy(), policy or TopProbability(), cache or Recompute())


def options(block: int, steps: int, others: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A sampler's options: `steps` per block, and the others."""
    return {"block_size": block, "steps": steps * (NUM_NEW // block), **(others or {})}


@dataclass(frozen=True)
class Samplers:
    """The compared modules of a checkout, one sampler each."""

    schedulers: ModuleType
    mdlm: ModuleType
    bd3lm: ModuleType
    dream: ModuleType
    fast_dllm: ModuleType

    @classmethod
    def of(cls, checkout: Path) -> "Samplers":
        source = Source("--dllm", checkout, HOME)
        return cls(load(source, SCHEDULERS, "LinearAlphaScheduler", "CosineAlphaScheduler"),
                   load(source, MDLM, "MDLMSampler", "MDLMSamplerConfig"), load(source, BD3LM, "BD3LMSampler"),
                   load(source, DREAM, "DreamSampler"), load(source, FAST_DLLM, "FastdLLMLLaDASampler"))

    def mdlm_findings(self, models: RandomModels) -> Iterator[Comparison[Finding]]:
        mdlm = Sampling(self.mdlm.MDLMSampler)
        quotas = [(block, steps) for block in (24, 12, 6) for steps in (block + 3, block, block // 3, 1)]
        yield compared(Finding("dllm MDLM", "linear, steps that divide 24, 12, 6 masks or are no fewer"), [
            Case(decoder(block, Linear(steps)), mdlm.engine(options(block, steps))) for block, steps in quotas], models)
        for name, alpha, scheduler in (("linear", LinearAlpha(), self.schedulers.LinearAlphaScheduler()),
                                       ("cosine", CosineAlpha(), self.schedulers.CosineAlphaScheduler())):
            sampling = replace(mdlm, built_with={"scheduler": scheduler})
            yield compared(Finding("dllm MDLM", f"{name}, 17, 7, 5 steps for 24, 12 masks", note=ROUNDED), [
                Case(decoder(block, Rounded(steps, alpha)), sampling.engine(options(block, steps)))
                for block in (24, 12) for steps in (17, 7, 5)], models)
        yield compared(Finding("dllm MDLM", "guidance 0.5, 1"), [
            Case(replace(decoder(block, Linear(steps)), guidance=ClassifierFree(scale)),
                 mdlm.engine(options(block, steps, {"cfg_scale": scale})))
            for scale in (0.5, 1.0) for block, steps in ((24, 8), (12, 12))], models)
        yield compared(Finding("dllm MDLM", "logits shifted by one"), [
            Case(decoder(block, Linear(steps)), mdlm.engine(options(block, steps, {"right_shift_logits": True})))
            for block, steps in ((24, 8), (12, 12))], replace(models, shift=1))
        yield Comparison("dllm MDLM", INFILLING, {"models": describe(models)}, lambda: self._infilling(models))

    def _infilling(self, models: RandomModels) -> Finding:
        """Masks anywhere; blocks count from the row's first token, each with the same steps."""
        num_decodes = num_same = num_close = 0
        for model, prompt in models:
            # With tokens given on both sides, unscaled logits give probabilities that tie at 1 in float32.
            model.transformer.head.weight.data /= 2
            tokens_L = torch.randint(0, model.mask_id, (len(prompt) + NUM_NEW,))
            request = Request(tokens_L.masked_fill(torch.rand(len(tokens_L)) < 0.6, model.mask_id).tolist())
            for block, steps in ((32, 32), (16, 16), (8, 1)):
                ours, config = decoder(block, Linear(steps)), self.mdlm.MDLMSamplerConfig(
                    block_size=block, steps=steps * (len(tokens_L) // block))
                theirs_BL = Sampling(self.mdlm.MDLMSampler).of(model).infill([list(request.tokens)], config)
                num_decodes += 1
                num_close += close_decisions(ours, model, request)
                num_same += ours.decode(model, [request])[0].tokens == theirs_BL[0].tolist()
        return Finding("dllm MDLM", INFILLING, num_decodes, num_same, num_close=num_close)

    def bd3lm_findings(self, models: RandomModels) -> Iterator[Comparison[Finding]]:
        bd3lm = Sampling(self.bd3lm.BD3LMSampler, end_id=None)
        for block in (4, 8):
            causal = replace(models, pattern=BlockCausal(block))
            stored = Decoder(GridBlocks(block), Linear(1), Greedy(), TopProbability(), BlockCausalCache())
            yield compared(Finding("dllm BD3LM", f"linear, blocks of {block}, steps that divide or exceed {block}"), [
                Case(replace(stored, schedule=Linear(steps)), bd3lm.engine(options(block, steps)))
                for steps in (block + 1, block, block // 2, 1)], causal)
        cosine_bd3lm = replace(bd3lm, built_with={"scheduler": self.schedulers.CosineAlphaScheduler()})
        yield compared(Finding("dllm BD3LM", "cosine, blocks of 8, 6, 5, 3 steps", note=ROUNDED), [
            Case(replace(stored, schedule=Rounded(steps, CosineAlpha())), cosine_bd3lm.engine(options(8, steps)))
            for steps in (6, 5, 3)], causal)
        yield compared(Finding("dllm BD3LM", "guidance 0.5, 1, blocks of 8"), [
            Case(replace(decoder(8, Linear(4)), guidance=ClassifierFree(scale)),
                 bd3lm.engine(options(8, 4, {"cfg_scale": scale}))) for scale in (0.5, 1.0)], causal)
        yield compared(Finding("dllm BD3LM", "logits shifted by one, blocks of 8"), [
            Case(decoder(8, Linear(steps)), bd3lm.engine(options(8, steps, {"right_shift_logits": True})))
            for steps in (8, 4)], replace(causal, shift=1))
        yield compared(Finding("dllm BD3LM", "stopping after the block of an end token"), [
            Case(replace(stored, schedule=Linear(steps), end_id=END_ID),
                 replace(bd3lm, end_id=END_ID).engine(options(8, steps))) for steps in (8, 4)], causal)
        yield compared(Finding("dllm BD3LM", "a prompt that ends within a block", note=FROM_PROMPT), [
            Case(decoder(8, Linear(steps)), bd3lm.engine(options(8, steps), block=8)) for steps in (8, 4)],
            replace(models, prompt_length=13, pattern=BlocksFromPrompt(8, first=13 % 8)))
        yield compared(Finding("dllm BD3LM", "padding id in the vocabulary", note=PADDING), [
            Case(replace(stored, schedule=Linear(steps)), replace(bd3lm, pad_id=END_ID).engine(options(8, steps)),
                 bd3lm.engine(options(8, steps))) for steps in (8, 4)], causal)

    def dream_findings(self, models: RandomModels) -> Iterator[Comparison[Finding]]:
        dream = Sampling(self.dream.DreamSampler)
        for alg, policy in ORDERS.items():
            told = {"alg": alg, "temperature": 0.0, "top_k": None}
            yield compared(Finding("dllm Dream", f"{alg}, linear, 27, 24, 8, 1 steps for 24 masks"), [
                Case(decoder(24, Linear(steps), policy), dream.engine({"steps": steps, **told}))
                for steps in (27, 24, 8, 1)], replace(models, shift=1))

    def fast_dllm_findings(self, models: RandomModels) -> Iterator[Comparison[Finding]]:
        fast, blocks = Sampling(self.fast_dllm.FastdLLMLLaDASampler), (24, 12, 6)
        for name, cache in CACHES.items():
            cached = {"use_cache": name}
            yield compared(Finding("dllm Fast-dLLM", f"cache {name}, quota"), [
                Case(decoder(block, Linear(steps), cache=cache), fast.engine(options(block, steps, cached)))
                for block in blocks for steps in (block, block // 3)], models)
            yield compared(Finding("dllm Fast-dLLM", f"cache {name}, threshold 0.9, 0.6, 0.3"), [
                Case(decoder(block, Unbounded(), Threshold(tau), cache),
                     fast.engine(options(block, block, cached | {"threshold": tau})))
                for block in blocks for tau in (0.9, 0.6, 0.3)], models)
            yield compared(Finding("dllm Fast-dLLM", f"cache {name}, factor 0.5, 1, 2"), [
                Case(decoder(block, Unbounded(), Factor(factor), cache),
                     fast.engine(options(block, block, cached | {"factor": factor})))
                for block in blocks for factor in (0.5, 1.0, 2.0)], models)
        for name, rule, policy in (("dual", "threshold", Threshold(0.9)), ("dual", "factor", Factor(0.9)),
                                   (None, "factor", Factor(0.9))):
            told = {"use_cache": name, rule: 0.9}
            setting = f"cache {name}, {rule} 0.9, told 3 steps a block"
            yield compared(Finding("dllm Fast-dLLM", setting, note=TOLD_STEPS), [
                Case(decoder(block, Unbounded(), policy, CACHES[name]), fast.engine(options(block, 3, told)),
                     fast.engine(options(block, block, told))) for block in blocks], models)


def agreement(checkout: Path, num_models: int = 20) -> Iterator[Comparison[Finding]]:
    """Findings by sampler. ValueError if the checkout lacks them."""
    samplers, models = Samplers.of(checkout), RandomModels(num_models, num_new=NUM_NEW)
    yield from samplers.mdlm_findings(models)
    yield from samplers.bd3lm_findings(models)
    yield from samplers.dream_findings(models)
    yield from samplers.fast_dllm_findings(models)
