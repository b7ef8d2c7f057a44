"""The comparison with LLaDA2 counts agreement, tells its defects from deviations and names a missing file. The code of
dllm and dFactory is not here; stand-ins with its signatures are."""

from pathlib import Path

import pytest
from quicksilver.experiments.peers.base import Finding
from quicksilver.experiments.peers.llada2 import (
    D_FACTORY,
    MODEL,
    MODEL_1,
    SAMPLER,
    SAMPLER_1,
    agreement,
    cut_after_end,
)
from quicksilver.models import Bidirectional

from tests.conftest import MASK_ID, random_model
from tests.experiments.peers.stand_ins import measured

_DECODE = """
import torch
import torch.nn.functional as F
from typing import Optional

def decode(call, prompt, mask_id, num_new, size, told, end_id=None):
    x = prompt + [mask_id] * num_new
    steps = told.get("steps", told.get("steps_per_block"))
    for lo in range(len(prompt) // size * size, len(x), size):
        hi, open_, step, passes = lo + size, True, 0, 0
        at = torch.arange(hi)
        mask = torch.zeros(1, 1, hi, hi).masked_fill(at // size > at[:, None] // size, -torch.inf)
        while open_:
            masks = [i for i in range(lo, hi) if x[i] == mask_id]
            passes += not masks
            if not masks and passes > told.get("max_post_steps", 0):
                break
            p = call(torch.tensor([x[:hi]]), attention_mask=mask, position_ids=at[None]).logits[0].softmax(-1)
            quota = told["num_to_transfer"] if steps is None else size // steps + (step < size % steps)
            best, token = (found.tolist() for found in p.max(-1))
            passing = [i for i in masks if best[i] > told["threshold"]]
            if len(passing) < quota:
                passing = sorted(masks, key=lambda i: -best[i])[:quota]
            edits = [i for i in range(max(lo, len(prompt)), hi) if i not in masks and token[i] != x[i]
                     and best[i] > told.get("editing_threshold", 1)]
            for i in passing + edits:
                x[i] = (token[i] + OFFSET) % mask_id
            open_, step = bool(masks or edits), step + 1
        if end_id in x[len(prompt) : hi]:
            break
    return x
"""
_SAMPLER = """
class Sampler:
    def __init__(self, model, tokenizer):
        self.model, self.ids = model, tokenizer

    def sample(self, inputs, max_new_tokens, block_size, eos_early_stop=False, **told):
        (prompt,) = inputs
        num_new = -(-(len(prompt) + max_new_tokens) // block_size) * block_size - len(prompt)
        end_id = self.ids.eos_token_id if eos_early_stop else None
        return torch.tensor([decode(self.model, prompt, self.ids.mask_token_id, num_new, block_size, told, end_id)])

LLaDA2Sampler = LLaDA21Sampler = Sampler
"""
_MODEL = """
import nothing_of_that_name

class ModelLM(nothing_of_that_name.Base):
    @staticmethod
    def _top_k_logits(): ...
    @staticmethod
    def _top_p_logits(): ...
    def _sample_with_temperature_topk_topp(self): ...

    def _get_num_transfer_tokens(self):
        DECODE
        return decode

    @torch.no_grad()
    def generate(self, inputs: Optional[torch.Tensor], temperature, block_length, gen_length, eos_id, mask_id,
                 eos_early_stop=False, **told):
        prompt = inputs[0].tolist()
        x = self._get_num_transfer_tokens()(self.forward, prompt, mask_id, gen_length, block_length, told)[len(prompt):]
        return torch.tensor([x[: x.index(eos_id) + 1] if eos_id in x else x])
"""


def _findings(folder: Path, files: dict[str, str], offset: int = 0) -> list[Finding]:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.replace("OFFSET", str(offset)))
    return list(measured(agreement(folder, num_models=1)))


_MODEL_FILE = _MODEL.replace("DECODE", _DECODE.strip().replace("\n", "\n        "))
_DLLM = {SAMPLER: _DECODE + _SAMPLER, SAMPLER_1: _DECODE + _SAMPLER, MODEL: _MODEL_FILE, MODEL_1: _MODEL_FILE}


@pytest.mark.slow
@pytest.mark.usefixtures("few_settings")
@pytest.mark.parametrize("files", [_DLLM, {D_FACTORY: _MODEL_FILE}], ids=["dllm", "dFactory"])
def test_agreement_is_counted(tmp_path: Path, files: dict[str, str]) -> None:
    findings = _findings(tmp_path, files)
    assert all(finding.num_same == finding.num_decodes > 0 for finding in findings)


@pytest.mark.usefixtures("few_settings", "one_layer")
def test_a_deviation_is_caught(tmp_path: Path) -> None:
    assert not any(finding.holds for finding in _findings(tmp_path, {D_FACTORY: _MODEL_FILE}, offset=1))


@pytest.mark.usefixtures("few_settings", "one_layer")
def test_an_answer_that_returns_the_prompt_is_told_apart(tmp_path: Path) -> None:
    returns = "return torch.tensor([x[: x.index(eos_id) + 1] if eos_id in x else x])"
    assert returns in _MODEL_FILE
    file = _MODEL_FILE.replace(returns, "x = x[: x.index(eos_id) + 1] if eos_id in x else x\n"
                                        "        return torch.tensor([prompt + x if eos_early_stop else x])")
    *others, early = _findings(tmp_path, {D_FACTORY: file})
    assert all(finding.num_same == finding.num_decodes for finding in others)
    assert early.num_by_defect == early.num_decodes > early.num_same == 0


def test_what_follows_the_end_tokens_block_is_cut() -> None:
    model = random_model(Bidirectional())
    engine = cut_after_end(lambda _, prompt: [*prompt, 5, 3, 6, 7, 8, 9], 4)
    assert engine(model, [3, 1, 2]) == [3, 1, 2, 5, 3, 6, 7, 8, MASK_ID]
    assert engine(model, [3]) == [3, 5, 3, 6] + [MASK_ID] * 3


def test_a_missing_file_or_method_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"--llada2 .*has no file {D_FACTORY}"):
        list(agreement(tmp_path))
    (tmp_path / "dllm").mkdir()
    with pytest.raises(ValueError, match=rf"--llada2 .*has no file {SAMPLER}"):
        list(agreement(tmp_path))
    (tmp_path / "dllm").rmdir()
    with pytest.raises(ValueError, match="has no generate"):
        _findings(tmp_path, {D_FACTORY: _MODEL_FILE.replace("def generate", "def other")})
