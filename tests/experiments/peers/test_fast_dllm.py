"""The comparison with Fast-dLLM's loops counts agreement, catches a deviation, and counts apart what the factor rule's
fault explains; its view keeps keys and values as their loops want them. The loops themselves are not here; stand-ins
with their signatures are."""

from pathlib import Path

import pytest
import torch
from quicksilver.decoders import Blocks, Decoder, Factor, Greedy, Unbounded
from quicksilver.experiments.peers.base import Case, Finding, RandomModels, compared
from quicksilver.experiments.peers.fast_dllm import LOOPS as CACHES
from quicksilver.experiments.peers.fast_dllm import Cached, Loop, agreement, loaded

from tests.experiments.peers.stand_ins import LOOPS, checkout, measured

FILE = "llada/generate.py"


@pytest.mark.usefixtures("few_loops")
def test_the_three_loops_agree_and_the_factor_fault_is_counted_apart(tmp_path: Path) -> None:
    findings = list(measured(agreement(checkout(tmp_path, FILE, LOOPS), num_models=1)))
    assert [found.setting.split(",")[0] for found in findings] == [*["no cache"] * 3, *["prefix"] * 3, *["dual"] * 3]
    assert all(found.holds for found in findings)
    for found in findings:
        by_factor = "factor" in found.setting
        assert (found.num_by_defect > 0) == by_factor == bool(found.note)
        assert found.num_same + found.num_by_defect == found.num_decodes


def test_a_block_that_the_first_forward_finished_breaks_their_factor_rule_alone(tmp_path: Path) -> None:
    """A factor so large that everything passes at once: their cached loops then meet a block without masks."""
    module = loaded(checkout(tmp_path, FILE, LOOPS))
    model, prompt = next(iter(RandomModels(1)))
    for name in ("prefix", "dual"):
        loop = Loop(module, name, Cached)
        with pytest.raises(IndexError):
            loop.engine(6, 24, 24, {"factor": 100.0})(model, prompt)
        case = Case(Decoder(Blocks(6), Unbounded(), Greedy(), Factor(100.0), CACHES[name][1]),
                    *loop.with_and_without_fault(6, 24, 100.0))
        found = compared(Finding("", ""), [case], RandomModels(1)).measure()
        assert (found.num_by_defect, found.num_decodes) == (1, 1)


@pytest.mark.usefixtures("few_loops", "one_layer")
def test_a_deviation_is_caught_in_every_loop(tmp_path: Path) -> None:
    comparisons = agreement(checkout(tmp_path, FILE, LOOPS, offset=1), num_models=1)
    findings = list(measured(comparison for comparison in comparisons if "factor" not in comparison.setting))
    assert len(findings) == 6
    assert not any(found.holds for found in findings)


def test_a_checkout_without_the_factor_rule_is_compared_without_it(tmp_path: Path) -> None:
    without = LOOPS.replace("threshold=None,\n                               factor=None)", "threshold=None)").replace(
        "threshold=None,\n                             factor=None)", "threshold=None)").replace(
        "threshold=None, factor=None)", "threshold=None)").replace("mask_id, threshold, factor, feed)\n\n",
                                                                   "mask_id, threshold, None, feed)\n\n")
    settings = [found.setting for found in agreement(checkout(tmp_path, FILE, without), num_models=0)]
    assert len(settings) == 6
    assert not any("factor" in setting for setting in settings)


def test_a_missing_file_or_loop_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--fast-dllm .*: has no file llada/generate.py"):
        next(agreement(tmp_path))
    with pytest.raises(ValueError, match="has no generate_with_dual_cache"):
        next(agreement(checkout(tmp_path, FILE, LOOPS.replace("def generate_with_dual", "def generate_with_double"))))


@torch.inference_mode()
@pytest.mark.parametrize("seed", range(2))
def test_unchanged_tokens_get_the_same_logits_from_either_form_of_cache(seed: int) -> None:
    model, prompt = list(RandomModels(2))[seed]
    tokens_1L, begin, end = torch.tensor([prompt + [5, 3] * 4 + [model.mask_id] * 8]), 10, 16
    view = Cached(model)
    whole = view(tokens_1L, use_cache=True)
    before = [(k[:, :, :begin], v[:, :, :begin]) for k, v in whole.past_key_values]
    after = view(tokens_1L[:, begin:], past_key_values=before, use_cache=True)
    torch.testing.assert_close(after.logits, whole.logits[:, begin:], atol=1e-4, rtol=1e-4)
    assert after.past_key_values[0][0].shape == whole.past_key_values[0][0].shape
    position_1L = torch.arange(tokens_1L.shape[1])[None]
    for k, v in whole.past_key_values:
        k[:, :, begin:end] = v[:, :, begin:end] = torch.nan
    within = view(tokens_1L[:, begin:end], past_key_values=whole.past_key_values,
                  replace_position=(position_1L >= begin) & (position_1L < end))
    torch.testing.assert_close(within.logits, whole.logits[:, begin:end], atol=1e-4, rtol=1e-4)
    assert within.past_key_values is None
