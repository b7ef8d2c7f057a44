"""LLaDA's `generate` (github.com/ML-GSAI/LLaDA, arXiv 2502.09992): blocks x steps, with and without guidance, no cache.

With guidance and no attention mask their loop raises UnboundLocalError (`attention_mask_` is only assigned if there is
a mask), so a mask of ones is given.
"""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch

from ...decoders import Blocks, ClassifierFree, Decoder, Greedy, Linear, Recompute, TopProbability, Unguided
from ...models import DecodableTransformer
from .base import Case, Comparison, Engine, Finding, RandomModels, Source, Timing, compared, stub_module
from .speed import OtherEngine, Setting, compare_speed, in_bfloat16
from .views import Whole

HOME = "github.com/ML-GSAI/LLaDA"
FILE = "generate.py"
_SCALES = (0.5, 1.0, 2.0)


def _loaded(checkout: Path) -> ModuleType:
    return Source("--llada", checkout, HOME).load(
        FILE, "generate", stand_ins=stub_module("transformers", "AutoTokenizer", "AutoModel"))


def decoder(steps: int, block: int, length: int, scale: float | None = None) -> Decoder:
    """Our LLaDA: blocks from left to right, each in its share of the steps, most probable first, no cache."""
    guidance = Unguided() if scale is None else ClassifierFree(scale)
    return Decoder(Blocks(block), Linear(steps * block // length), Greedy(), TopProbability(), Recompute(),
                   guidance=guidance)


def _engine(llada: ModuleType, steps: int, block: int, length: int, scale: float | None = None) -> Engine:
    def decode(model: DecodableTransformer, prompt: list[int]) -> list[int]:
        guidance = {} if scale is None else {"cfg_scale": scale, "attention_mask": torch.ones(1, len(prompt))}
        return llada.generate(Whole(model), torch.tensor([prompt]), steps=steps, gen_length=length, block_length=block,
                              temperature=0.0, mask_id=model.mask_id, **guidance)[0].tolist()

    return decode


def _fails_without_a_mask(llada: ModuleType) -> bool:
    model, prompt = next(iter(RandomModels(1)))
    try:
        llada.generate(Whole(model), torch.tensor([prompt]), steps=1, gen_length=1, block_length=1, temperature=0.0,
                       mask_id=model.mask_id, cfg_scale=1.0)
    except UnboundLocalError:
        return True
    return False


def agreement(checkout: Path, num_models: int = 20) -> Iterator[Comparison[Finding]]:
    llada, models = _loaded(checkout), RandomModels(num_models)
    length = models.num_new
    settings = [(steps, block) for block in (24, 12, 6) for steps in (24, 12, 8, 4) if steps * block % length == 0]
    cases = [Case(decoder(*setting, length), _engine(llada, *setting, length)) for setting in settings]
    yield compared(Finding("LLaDA", f"{len(cases)} of blocks x steps"), cases, models)
    settings = [(steps, block) for block in (24, 6) for steps in (24, 8)]
    cases = [Case(decoder(*setting, length, scale), _engine(llada, *setting, length, scale))
             for setting in settings for scale in _SCALES]
    note = "guidance without an attention mask is an UnboundLocalError, here too; run with a mask of ones"
    yield compared(Finding("LLaDA", f"guidance {', '.join(map(str, _SCALES))}, {len(settings)} of blocks x steps",
                           note=note if _fails_without_a_mask(llada) else ""), cases, models)


def speed(checkout: Path, setting: Setting | None = None) -> Iterator[Comparison[Timing]]:
    """Their loop and ours on the same model object, with float32 weights, then bfloat16."""
    llada, setting = _loaded(checkout), setting or Setting()
    schedule = (setting.steps, setting.block, setting.num_new)
    model, prompt = setting.model(), setting.prompt()
    num_fed = setting.steps * model.spec.max_length

    def other(model: DecodableTransformer) -> OtherEngine:
        return OtherEngine("LLaDA's loop, no cache on either side", lambda: _engine(llada, *schedule)(model, prompt),
                           num_fed, num_fed)

    for weights in (model, in_bfloat16(model)):
        yield compare_speed("LLaDA", setting, decoder(*schedule), weights, other, target=1.0)
