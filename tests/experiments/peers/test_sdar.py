"""The comparison with SDAR counts agreement, tells its defects from deviations and names a missing file. SDAR's code is
not here; a stand-in with its signature is."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from quicksilver.experiments.peers.base import Comparison, Finding
from quicksilver.experiments.peers.sdar import Stored, agreement, bounded_topk
from quicksilver.experiments.peers.views import logits_of
from quicksilver.models import BlockCausal
from torch import Tensor

from tests.conftest import random_model
from tests.experiments.peers.stand_ins import measured

_STAND_IN = """
import torch

class Store:
    def __init__(self):
        self.pairs = {}

    def update(self, k, v, layer):
        if layer in self.pairs:
            k, v = (torch.cat(pair, 2) for pair in zip(self.pairs[layer], (k, v)))
        self.pairs[layer] = k, v
        return k, v

def block_diffusion_generate(model, prompt, mask_id, gen_length, block_length, denoising_steps, remasking_strategy,
                             confidence_threshold, eb_threshold, stopping_criteria_idx):
    model.eval()
    if remasking_strategy == "entropy_bounded":
        raise UnboundLocalError("transfer_index")
    x, store, size = prompt["input_ids"][0].tolist(), Store(), block_length
    start = len(x)
    x += [mask_id] * gen_length

    def probabilities(lo, keep):
        return model(torch.tensor([x[lo : lo + size]]), attention_mask=torch.ones(1, size, lo + size),
                     position_ids=torch.arange(lo, lo + size)[None], past_key_values=store, use_cache=True,
                     store_kv=keep).logits[0].softmax(-1)

    for lo in range(0, len(x), size):
        for step in range(denoising_steps):
            masks = [i for i in range(size) if x[lo + i] == mask_id]
            if not masks:
                break
            p = probabilities(lo, False)
            token = torch.multinomial(p, num_samples=1)[:, 0]
            score = torch.full((size,), -torch.inf)
            score[masks] = p[masks, token[masks]]
            quota = size // denoising_steps + (step < size % denoising_steps)
            if remasking_strategy == "low_confidence_dynamic":
                quota = max(quota, int((score > confidence_threshold).sum()))
            if remasking_strategy == "sequential":
                score[masks] = -torch.arange(len(masks)).float()
            for i in torch.topk(score, quota if WIDE else min(quota, len(masks)))[1].tolist():
                x[lo + i] = token[i].item() + OFFSET
        probabilities(lo, True)
        if stopping_criteria_idx and any(token in stopping_criteria_idx for token in x[start : lo + size]):
            break
    return torch.tensor([x])
"""


def _comparisons(folder: Path, *, offset: int = 0, wide: bool = False) -> Iterator[Comparison[Finding]]:
    (folder / "generate.py").write_text(_STAND_IN.replace("OFFSET", str(offset)).replace("WIDE", str(wide)))
    return agreement(folder, num_models=1)


@pytest.mark.slow
def test_agreement_is_counted_by_strategy(tmp_path: Path) -> None:
    *strategies, entropy = measured(_comparisons(tmp_path))
    assert all(finding.num_same == finding.num_decodes > 0 for finding in strategies)
    assert (entropy.num_same, entropy.num_by_defect, entropy.num_decodes) == (0, 1, 1)


@pytest.mark.usefixtures("one_layer")
def test_a_deviation_is_caught(tmp_path: Path) -> None:
    assert not any(finding.holds for finding in measured(islice(_comparisons(tmp_path, offset=1), 4)))


def test_a_quota_beyond_the_masks_is_told_apart(tmp_path: Path) -> None:
    *_, unlike, one_mask, dynamic, _ = _comparisons(tmp_path, wide=True)
    findings = list(measured([unlike, one_mask, dynamic]))
    assert all(finding.holds for finding in findings)
    assert [bool(finding.num_by_defect) for finding in findings] == [False, True, True]
    assert [bool(finding.note) for finding in findings] == [False, True, True]


def test_bounded_topk_takes_nothing_at_minus_infinity() -> None:
    score_S = torch.tensor([0.2, -torch.inf, 0.7, -torch.inf])
    assert bounded_topk(score_S, torch.tensor(3))[1].tolist() == [2, 0]
    assert bounded_topk(score_S, torch.tensor(1))[1].tolist() == [2]


class _Store:
    def __init__(self) -> None:
        self.pairs: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        old = self.pairs.get(layer, (keys[:, :, :0], values[:, :, :0]))
        self.pairs[layer] = torch.cat((old[0], keys), 2), torch.cat((old[1], values), 2)
        return self.pairs[layer]


@torch.inference_mode()
def test_the_view_stores_when_told_and_sees_what_is_stored() -> None:
    model, store, position_1F = random_model(BlockCausal(4)), _Store(), torch.arange(8)[None]
    tokens_BF = torch.randint(0, model.mask_id, (1, 8))
    expected_BFV = logits_of(model, tokens_BF, position_1F, lambda _, k, v: (k, v),
                             BlockCausal(4).visible(position_1F, position_1F))
    for begin, keeps in ((0, False), (0, True), (4, False), (4, True)):
        block = slice(begin, begin + 4)
        found_BFV = Stored(model)(tokens_BF[:, block], attention_mask=torch.ones(1, 4, begin + 4), use_cache=True,
                                  position_ids=position_1F[:, block], past_key_values=store, store_kv=keeps).logits
        torch.testing.assert_close(found_BFV, expected_BFV[:, block])
        assert {keys.shape[2] for keys, _ in store.pairs.values()} <= {begin + 4 * keeps}


def test_a_missing_or_foreign_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--sdar .*has no file generate.py"):
        list(agreement(tmp_path))
    (tmp_path / "generate.py").write_text("x = 1")
    with pytest.raises(ValueError, match=r"generate.py has no block_diffusion_generate"):
        list(agreement(tmp_path))
