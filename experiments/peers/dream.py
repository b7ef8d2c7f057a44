"""Dream's diffusion loop (`DreamGenerationMixin._sample`) against ours: most probable, largest margin and lowest
entropy first, each under Dream's truncated quota. Batches of one, where its mean over rows equals the row's own count.

The loop shifts the logits by one itself; our side is a bidirectional model with shift 1. It is called directly, not by
`diffusion_generate`, whose configuration some copies cannot update under transformers 5.
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor

from ...decoders import Decoder, Dream, Greedy, LowEntropy, Policy, Recompute, TopMargin, TopProbability, Whole
from ...models import DecodableTransformer
from .base import Case, Comparison, Engine, Finding, RandomModels, Source, compared
from .views import logits_of

HOME = "github.com/ZHZisZZ/dllm or github.com/NVlabs/Fast-dLLM, which carry the loop"
FILES = ("dllm/pipelines/dream/models/generation_utils.py", "dream/model/generation_utils.py", "generation_utils.py")
ORDERS: dict[str, Policy] = {"maskgit_plus": TopProbability(), "topk_margin": TopMargin(), "entropy": LowEntropy()}
STEPS = (40, 24, 11, 6, 3)


@dataclass(frozen=True)
class Unshifted:
    """A model as the loop calls it: row q is the network's output at position q, for the next token."""

    model: DecodableTransformer

    @property
    def device(self) -> torch.device:
        return self.model.spec.device

    def __call__(self, tokens_BL: Tensor, attention_mask: str, tok_idx: None) -> SimpleNamespace:
        assert attention_mask == "full"
        assert tok_idx is None
        position_BL = torch.arange(tokens_BL.shape[1]).expand_as(tokens_BL)
        return SimpleNamespace(logits=logits_of(self.model, tokens_BL, position_BL, lambda _, k, v: (k, v)))


def engine(dream: ModuleType, alg: str, steps: int, num_new: int) -> Engine:
    def theirs(model: DecodableTransformer, prompt: list[int]) -> list[int]:
        config = dream.DreamGenerationConfig(max_length=len(prompt) + num_new, mask_token_id=model.mask_id, steps=steps,
                                             alg=alg, temperature=0.0)
        with torch.inference_mode(), contextlib.redirect_stdout(io.StringIO()):
            tokens_BL = dream.DreamGenerationMixin._sample(
                Unshifted(model), torch.tensor([prompt]), attention_mask=None, generation_config=config,
                generation_tokens_hook_func=lambda step, x, logits: x,
                generation_logits_hook_func=lambda step, x, logits: logits)
        return tokens_BL[0].tolist()

    return theirs


def agreement(checkout: Path, num_models: int = 20) -> Iterator[Comparison[Finding]]:
    """One finding per order. ValueError if the checkout lacks the loop."""
    source = Source("--dream", checkout, HOME)
    file = next((file for file in FILES if (checkout / file).is_file()), FILES[0])
    dream = source.load(file, "DreamGenerationConfig", "DreamGenerationMixin")
    models = RandomModels(num_models, shift=1)
    for alg, policy in ORDERS.items():
        cases = [Case(Decoder(Whole(), Dream(steps), Greedy(), policy, Recompute()),
                      engine(dream, alg, steps, models.num_new)) for steps in STEPS]
        yield compared(Finding("Dream", f"{alg}, {', '.join(map(str, STEPS))} steps", 0, 0), cases, models)
