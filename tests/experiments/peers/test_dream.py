"""The comparison with Dream counts agreement, catches a deviation and names a missing file. Dream's loop is not here; a
stand-in with its signature is."""

from pathlib import Path

import pytest
from quicksilver.experiments.peers.dream import agreement

from tests.experiments.peers.stand_ins import measured

_STAND_IN = """
import math
import torch

class DreamGenerationConfig:
    def __init__(self, max_length, mask_token_id, steps, alg, temperature):
        self.max_length, self.mask_token_id, self.steps, self.alg = max_length, mask_token_id, steps, alg

def score(alg, p):
    first, second = p.sort(descending=True).values[:2]
    return {"maskgit_plus": first, "topk_margin": first - second, "entropy": p.xlogy(p).sum()}[alg].item()

class DreamGenerationMixin:
    def _sample(self, input_ids, attention_mask, generation_config, generation_tokens_hook_func,
                generation_logits_hook_func):
        config = generation_config
        x = input_ids[0].tolist() + [config.mask_token_id] * (config.max_length - input_ids.shape[1])
        for step in range(config.steps):
            t, s = (1 - at * (1 - 1e-3) / config.steps for at in (step, step + 1))
            masks = [i for i, token in enumerate(x) if token == config.mask_token_id]
            quota = len(masks) if step == config.steps - 1 else math.floor(len(masks) * (1 - s / t))
            p = self(torch.tensor([x]), "full", None).logits[0].softmax(-1)
            for i in sorted(masks, key=lambda i: -score(config.alg, p[i - 1]))[:quota]:
                x[i] = p[i - 1].argmax().item() + OFFSET
        return torch.tensor([x])
"""


@pytest.mark.slow
@pytest.mark.usefixtures("one_layer")
@pytest.mark.parametrize(("offset", "same"), [(0, 5), (1, 0)])
def test_agreement_is_counted_by_order(tmp_path: Path, offset: int, same: int) -> None:
    (tmp_path / "generation_utils.py").write_text(_STAND_IN.replace("OFFSET", str(offset)))
    findings = list(measured(agreement(tmp_path, num_models=1)))
    assert [finding.num_same for finding in findings] == [same] * 3
    assert {finding.num_decodes for finding in findings} == {5}
    assert {finding.holds for finding in findings} == {not offset}


def test_a_missing_or_foreign_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--dream .*has no file dllm/pipelines/dream/models/generation_utils.py"):
        list(agreement(tmp_path))
    (tmp_path / "generation_utils.py").write_text("class DreamGenerationConfig: pass")
    with pytest.raises(ValueError, match=r"generation_utils.py has no DreamGenerationMixin"):
        list(agreement(tmp_path))
