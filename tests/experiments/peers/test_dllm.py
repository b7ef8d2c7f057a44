"""The comparison with dllm counts agreement, catches a deviation and names a missing file; its quota is dllm's as
written. dllm's code is not here; a stand-in with its samplers' signatures is."""

import math
from pathlib import Path

import pytest
import torch
from quicksilver.decoders import StepState
from quicksilver.experiments.peers.base import RandomModels
from quicksilver.experiments.peers.dllm import (
    BD3LM,
    DREAM,
    FAST_DLLM,
    MDLM,
    SCHEDULERS,
    BlocksFromPrompt,
    CosineAlpha,
    LinearAlpha,
    Rounded,
    Samplers,
    agreement,
)
from quicksilver.models import BlockCausal, Shape

_STAND_IN = """
import torch
from dllm.core.naive import quotas

class MDLMSamplerConfig:
    def __init__(self, block_size, steps):
        self.block_size, self.steps = block_size, steps

class Sampler:
    def __init__(self, model, tokenizer):
        self.model, self.mask_id = model, tokenizer.mask_token_id

    def sample(self, inputs, max_new_tokens, block_size, steps, use_cache=None, causal=False):
        (prompt,) = inputs
        assert use_cache is None
        return self.fill(prompt + [self.mask_id] * max_new_tokens, len(prompt), block_size,
                         steps * block_size // max_new_tokens, causal)

    def infill(self, inputs, config):
        (x,) = inputs
        return self.fill(list(x), 0, config.block_size, config.steps * config.block_size // len(x), False)

    def fill(self, x, start, size, steps, causal, shift=0):
        at = torch.arange(len(x))
        mask = (at // size <= at[:, None] // size)[None, None] if causal else torch.ones(1, len(x))
        for lo in range(start, len(x), size):
            for quota in quotas(x[lo : lo + size].count(self.mask_id), steps):
                p = self.model(torch.tensor([x]), attention_mask=mask, position_ids=at[None]).logits[0].softmax(-1)
                p = p.roll(shift, 0)
                masks = [i for i in range(lo, lo + size) if x[i] == self.mask_id]
                best, token = (found.tolist() for found in p.max(-1))
                for i in sorted(masks, key=lambda i: -best[i])[:quota]:
                    x[i] = token[i] + OFFSET
        return torch.tensor([x])

class BD3LMSampler(Sampler):
    def sample(self, inputs, **options):
        return super().sample(inputs, causal=True, **options)

class DreamSampler(Sampler):
    def sample(self, inputs, max_new_tokens, steps, alg, temperature, top_k):
        (prompt,) = inputs
        assert alg == "maskgit_plus"
        return self.fill(prompt + [self.mask_id] * max_new_tokens, len(prompt), max_new_tokens, steps, False, shift=1)

MDLMSampler = FastdLLMLLaDASampler = Sampler
"""
_NAIVE = """
def quotas(masks, steps):
    for left in range(steps, 0, -1):
        quota = round(masks / left)
        masks -= quota
        yield quota
"""
_EMPTY = "class LinearAlphaScheduler: pass\nclass CosineAlphaScheduler: pass"


def _written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def _samplers(folder: Path, offset: int) -> Samplers:
    stand_in = _STAND_IN.replace("OFFSET", str(offset))
    return Samplers.of(_written(folder, {
        "dllm/__init__.py": "raise ImportError", "dllm/core/naive.py": _NAIVE, SCHEDULERS: _EMPTY, MDLM: stand_in,
        BD3LM: stand_in, DREAM: stand_in, FAST_DLLM: stand_in}))


def _models(offset: int) -> RandomModels:
    """One model; of a single layer where it is a deviation that must be caught."""
    return RandomModels(1, shape=Shape(width=64, num_layers=1 if offset else 2))


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize(("findings", "num_decodes"), [("mdlm_findings", 12), ("bd3lm_findings", 4),
                                                       ("dream_findings", 4), ("fast_dllm_findings", 6)])
def test_agreement_is_counted_by_sampler(tmp_path: Path, findings: str, num_decodes: int, offset: int) -> None:
    finding = next(getattr(_samplers(tmp_path, offset), findings)(_models(offset))).measure()
    assert (finding.num_decodes, finding.num_same) == (num_decodes, 0 if offset else num_decodes)
    assert finding.holds == (not offset)


@pytest.mark.parametrize("offset", [0, 1])
def test_infilling_is_counted(tmp_path: Path, offset: int) -> None:
    finding = _samplers(tmp_path, offset)._infilling(_models(offset))
    assert (finding.num_decodes, finding.num_same) == (3, 0 if offset else 3)


def _quotas(schedule: Rounded, num_masked: int) -> list[int]:
    quotas, left = [], num_masked
    for step in range(schedule.steps):
        state = StepState.of_counts(schedule, torch.tensor([num_masked]), size=99).at_step(step, torch.tensor([left]))
        quotas.append(int(state.quota.at_most_B))
        left -= quotas[-1]
    assert left == 0
    return quotas


@pytest.mark.parametrize(("num_masked", "steps"), [(24, 7), (13, 5), (4, 9), (50, 1), (1, 3)])
def test_cosine_quotas_are_the_rounded_expectation(num_masked: int, steps: int) -> None:
    expected, left = [], num_masked
    for step in range(steps):
        share, next_share = (math.sin(math.pi / 2 * (1 - at / steps)) for at in (step, step + 1))
        expected.append(round(left * (1 - next_share / share)))
        left -= expected[-1]
    assert _quotas(Rounded(steps, CosineAlpha()), num_masked) == expected


@pytest.mark.parametrize(("num_masked", "steps", "quotas"), [(12, 4, [3] * 4), (7, 7, [1] * 7), (6, 1, [6])])
def test_linear_quotas_are_equal_where_the_steps_divide_the_masks(num_masked: int, steps: int, quotas: list[int]
                                                                  ) -> None:
    assert _quotas(Rounded(steps, LinearAlpha()), num_masked) == quotas


def test_blocks_from_the_prompt_begin_where_it_ends() -> None:
    pattern, position_1L = BlocksFromPrompt(4, first=2), torch.arange(10)[None]
    shifted_1L = position_1L + 2  # two positions of padding before the row
    visible_BLL = pattern.visible(position_1L, position_1L)
    assert (visible_BLL == BlockCausal(4).visible(shifted_1L, shifted_1L)).all()
    assert (pattern.stop(position_1L)[0].clamp(max=10) == visible_BLL[0].sum(1)).all()


def test_a_missing_or_foreign_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"--dllm .*has no file {SCHEDULERS}"):
        list(agreement(tmp_path))
    _written(tmp_path, {SCHEDULERS: _EMPTY, MDLM: "class MDLMSampler: pass"})
    with pytest.raises(ValueError, match=rf"{MDLM} has no MDLMSamplerConfig"):
        list(agreement(tmp_path))
