"""LLaDA2's and LLaDA2.1's generation against ours, block-causal on the absolute grid: dllm's samplers, and `generate`
of the checkpoints' own model files as shipped with dllm and dFactory.

Only the generation methods of a model file are compiled, unchanged: the rest needs packages and an older transformers.
Ours is a threshold with a minimum quota; LLaDA2.1 also edits committed tokens.
"""

import ast
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional
from unittest import mock

import torch
import torch.nn.functional as F

from ...decoders import (
    BlockCausalCache,
    Decoder,
    Even,
    Floor,
    Greedy,
    GridBlocks,
    Policy,
    Request,
    Threshold,
    TokenEditing,
)
from ...models import BlockCausal, DecodableTransformer
from ..harness.records import describe
from .base import Case, Comparison, Engine, Finding, RandomModels, Source, compared
from .dllm_sampling import Called, Sampling, load
from .sdar import most_probable

HOME = "github.com/ZHZisZZ/dllm or github.com/inclusionAI/dFactory"
D_FACTORY = "models/llada2_moe/modeling_llada2_moe.py"
SAMPLER, SAMPLER_1 = "dllm/pipelines/llada2/sampler.py", "dllm/pipelines/llada21/sampler.py"
MODEL, MODEL_1 = "dllm/pipelines/llada2/models/modeling_llada2_moe.py", (
    "dllm/pipelines/llada21/models/modeling_llada21_moe.py")
FILES = (D_FACTORY, SAMPLER, SAMPLER_1, MODEL, MODEL_1)
METHODS = frozenset({"generate", "_get_num_transfer_tokens", "_sample_with_temperature_topk_topp", "_top_k_logits",
                     "_top_p_logits"})
END_ID, NO_ID = 3, -1
DRAWN = "at temperature 0 theirs draws by multinomial; with the most probable token in its place theirs is ours"
EARLY_SAMPLER = ("their early stop ends a block's steps, not the decode: masks stay in the block and later blocks are "
                 "decoded; without it, cut after the end token's block, theirs is ours")
EARLY_END = ("their early stop takes an end token of the prompt for the answer's, and returns nothing; without it "
             "theirs is ours")
EARLY_PROMPT = "their early stop returns the prompt before the answer; without it theirs is ours"


@dataclass(frozen=True)
class Setting:
    """A threshold with a minimum quota: block size, steps per block, threshold."""

    block: int
    steps: int
    tau: float

    def ours(self, end_id: int | None = None) -> Decoder:
        return decoder(self.block, self.steps, Threshold(self.tau), end_id)

    @property
    def of_generate(self) -> dict[str, Any]:
        return {"block_length": self.block, "steps": self.steps, "threshold": self.tau}

    @property
    def of_sampler(self) -> dict[str, Any]:
        return {"block_size": self.block, "steps_per_block": self.steps, "threshold": self.tau}


@dataclass(frozen=True)
class Editing:
    """LLaDA2.1: block size, minimum quota of every step, thresholds of drafts and edits, steps without a mask."""

    block: int
    quota: int
    draft_tau: float
    edit_tau: float
    num_passes: int

    def ours(self, end_id: int | None = None) -> Decoder:
        policy = TokenEditing(self.draft_tau, self.edit_tau, self.num_passes)
        return decoder(self.block, self.block // self.quota, policy, end_id)

    @property
    def of_sampler(self) -> dict[str, Any]:
        return {"block_size": self.block, "num_to_transfer": self.quota, "threshold": self.draft_tau,
                "editing_threshold": self.edit_tau, "max_post_steps": self.num_passes}

    @property
    def of_generate(self) -> dict[str, Any]:
        return {"block_length" if name == "block_size" else name: value for name, value in self.of_sampler.items()}


QUOTAS = {4: [Setting(4, 4, 0.95), Setting(4, 4, 0.4), Setting(4, 3, 0.4)],
          8: [Setting(8, 8, 0.6), Setting(8, 3, 0.3), Setting(8, 1, 0.95)]}
EDITINGS = {4: [Editing(4, 1, 0.5, 0.3, 5), Editing(4, 2, 0.3, 0.6, 2), Editing(4, 1, 0.7, 0.2, 0)],
            8: [Editing(8, 1, 0.2, 0.2, 3), Editing(8, 2, 0.5, 0.4, 1), Editing(8, 1, 0.9, 0.9, 16)]}


def decoder(block: int, steps: int, policy: Policy, end_id: int | None) -> Decoder:
    return Decoder(GridBlocks(block), Floor(Even(steps)), Greedy(), policy, BlockCausalCache(), end_id)


def generator(source: Source, file: str) -> type:
    """A class with the generation methods of a model file. ValueError if the file or one of them is missing."""
    path = source.checkout / file
    if not path.is_file():
        raise ValueError(f"{source.option} {source.checkout}: has no file {file}; give a checkout of {source.home}")
    methods = {node.name: node for node in ast.walk(ast.parse(path.read_text()))
               if isinstance(node, ast.FunctionDef) and node.name in METHODS}
    if missing := sorted(METHODS - set(methods)):
        raise ValueError(f"{source.option} {source.checkout}: {file} has no {missing[0]}; give a checkout of "
                         f"{source.home}")
    namespace = {"torch": torch, "F": F, "Optional": Optional}
    exec(compile(ast.Module(list(methods.values()), []), str(path), "exec"), namespace)
    return type("Generator", (), {name: namespace[name] for name in methods})


def generate_engine(generator: type, told: Mapping[str, Any], *, end_id: int = NO_ID, greedy: bool = True) -> Engine:
    """The completion by a model file's `generate`, up to and including the end token; greedy: multinomial returns the
    most probable token."""
    def theirs(model: DecodableTransformer, prompt: list[int]) -> list[int]:
        instance = generator()
        instance.device, instance.forward = model.spec.device, Called(model)
        with mock.patch.object(torch, "multinomial", most_probable) if greedy else nullcontext():
            tokens_BL = instance.generate(torch.tensor([prompt]), temperature=0.0, eos_id=end_id, mask_id=model.mask_id,
                                          gen_length=model.spec.max_length - len(prompt), **told)
        return tokens_BL[0].tolist()

    return theirs


def after_prompt(engine: Engine) -> Engine:
    """The whole canvas from an engine that returns only the completion."""
    return lambda model, prompt: prompt + engine(model, prompt)


def cut_after_end(engine: Engine, block: int) -> Engine:
    """Replace everything after the block of the completion's first end token by masks."""
    def cut(model: DecodableTransformer, prompt: list[int]) -> list[int]:
        tokens = engine(model, prompt)
        end = next((i for i in range(len(prompt), len(tokens)) if tokens[i] == END_ID), len(tokens))
        stop = min((end // block + 1) * block, len(tokens))
        return tokens[:stop] + [model.mask_id] * (len(tokens) - stop)

    return cut


def _models(num_models: int, block: int, prompt_length: int) -> RandomModels:
    return RandomModels(num_models, prompt_length, 32 - prompt_length, pattern=BlockCausal(block))


@dataclass(frozen=True)
class Ended:
    """Completions up to and including an end token, by a model file's `generate`. The end token is one of our decode's
    tokens, in the prompt or not in it; decodes without such a token are not counted."""

    setting: str
    early: bool
    in_prompt: bool
    note: str = ""

    def found(self, name: str, generator: type, settings: Mapping[int, Sequence[Setting | Editing]], num_models: int
              ) -> Comparison[Finding]:
        of = {"num_models": num_models, "settings": describe(settings), **describe(self)}
        return Comparison(name, self.row, of, lambda: self._counted(name, generator, settings, num_models))

    @property
    def row(self) -> str:
        return f"generate, {self.setting}"

    def _counted(self, name: str, generator: type, settings: Mapping[int, Sequence[Setting | Editing]],
                 num_models: int) -> Finding:
        counts = Counter[str]()
        for block, of_block in settings.items():
            models = _models(num_models, block, 8)
            for model, prompt in models:
                request = Request.completing(prompt, models.num_new, mask_id=model.mask_id)
                for setting in of_block:
                    tokens = setting.ours().decode(model, [request])[0].completion
                    end_id = next((token for token in tokens[2:] if (token in prompt) == self.in_prompt), None)
                    if end_id is None:
                        continue
                    ours = setting.ours(end_id).decode(model, [request])[0].completion
                    theirs, repaired = (generate_engine(generator, setting.of_generate | {"eos_early_stop": stops},
                                                        end_id=end_id)(model, prompt) for stops in (self.early, False))
                    counts["decodes"] += 1
                    counts["same"] += ours == theirs
                    counts["by defect"] += bool(self.note) and theirs != ours == repaired
        return Finding(name, self.row, counts["decodes"], counts["same"], counts["by defect"],
                       note=self.note)


def _d_factory(source: Source, num_models: int) -> Iterator[Comparison[Finding]]:
    generate, name = generator(source, D_FACTORY), "LLaDA2 of dFactory"
    for block, settings in QUOTAS.items():
        for prompt_length in (8, 6):
            yield compared(Finding(name, f"generate, blocks of {block}, prompt of {prompt_length}", note=DRAWN), [
                Case(setting.ours(), *(after_prompt(generate_engine(generate, setting.of_generate, greedy=greedy))
                                       for greedy in (False, True))) for setting in settings],
                _models(num_models, block, prompt_length))
    for ended in (Ended("up to the end token", False, False), Ended("early stop", True, False, EARLY_PROMPT)):
        yield ended.found(name, generate, QUOTAS, num_models)


def _dllm(name: str, settings: Mapping[int, Sequence[Setting | Editing]], sampling: Sampling, generate: type,
          num_models: int) -> Iterator[Comparison[Finding]]:
    for block, of_block in settings.items():
        for prompt_length in (8, 6):
            yield compared(Finding(name, f"sampler and generate, blocks of {block}, prompt of {prompt_length}"), [
                Case(setting.ours(), engine) for setting in of_block
                for engine in (sampling.engine(setting.of_sampler),
                               after_prompt(generate_engine(generate, setting.of_generate)))],
                _models(num_models, block, prompt_length))
    breaks_early = settings is QUOTAS
    for ended in (Ended("up to the end token", False, False), Ended("early stop", True, False),
                  Ended("early stop, the end token in the prompt", True, True, EARLY_END if breaks_early else "")):
        yield ended.found(name, generate, settings, num_models)
    ending = replace(sampling, end_id=END_ID)
    yield compared(Finding(name, "sampler, early stop, blocks of 8", note=EARLY_SAMPLER if breaks_early else ""), [
        Case(setting.ours(END_ID), ending.engine(setting.of_sampler | {"eos_early_stop": True}),
             cut_after_end(ending.engine(setting.of_sampler), 8) if breaks_early else None) for setting in settings[8]],
        _models(num_models, 8, 8))


def agreement(checkout: Path, num_models: int = 20) -> Iterator[Comparison[Finding]]:
    """Findings for the checkout's files. ValueError if it is neither dllm's nor dFactory's."""
    source = Source("--llada2", checkout, HOME)
    if not (checkout / "dllm").is_dir():
        yield from _d_factory(source, num_models)
        return
    yield from _dllm("LLaDA2 of dllm", QUOTAS, Sampling(load(source, SAMPLER, "LLaDA2Sampler").LLaDA2Sampler),
                     generator(source, MODEL), num_models)
    yield from _dllm("LLaDA2.1 of dllm", EDITINGS, Sampling(load(source, SAMPLER_1, "LLaDA21Sampler").LLaDA21Sampler),
                     generator(source, MODEL_1), num_models)
