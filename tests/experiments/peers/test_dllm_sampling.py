"""Our model as dllm calls one: kept keys and values, replaced slices and padding give what a whole forward gives."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from quicksilver.experiments.peers.base import Source
from quicksilver.experiments.peers.dllm_sampling import NUM_NEW, Called, Sampling, load
from quicksilver.models import AttentionPattern, Bidirectional, BlockCausal, DecodableTransformer
from torch import Tensor

from tests.conftest import MASK_ID, random_model

LENGTH = 12
BLOCK_MASK = BlockCausal(4).visible(torch.arange(LENGTH)[None], torch.arange(LENGTH)[None])[:, None]


def _called(pattern: AttentionPattern) -> tuple[Called, Tensor]:
    return Called(random_model(pattern)), torch.randint(0, MASK_ID, (1, LENGTH))


@pytest.mark.parametrize("mask", [BLOCK_MASK, torch.zeros(BLOCK_MASK.shape).masked_fill(~BLOCK_MASK, -torch.inf)],
                         ids=["who sees whom", "added to scores"])
@torch.inference_mode()
def test_a_block_after_kept_ones_gives_what_the_whole_gives(mask: Tensor) -> None:
    called, tokens_BL = _called(BlockCausal(4))
    position_BL = torch.arange(LENGTH)[None]
    whole_BLV = called(tokens_BL, mask, position_BL).logits
    first = called(tokens_BL[:, :8], mask[..., :8, :8], position_BL[:, :8], use_cache=True)
    last = called(tokens_BL[:, 8:], mask[..., 8:, :], position_BL[:, 8:], past_key_values=first.past_key_values)
    torch.testing.assert_close(torch.cat((first.logits, last.logits), 1), whole_BLV)
    assert last.past_key_values is None


@torch.inference_mode()
def test_a_replaced_slice_gives_what_the_whole_gives_and_keeps_the_rest() -> None:
    called, tokens_BL = _called(Bidirectional())
    ones_BL, replaced_BL = torch.ones(1, LENGTH), torch.zeros(1, LENGTH, dtype=torch.bool)
    replaced_BL[:, 4:8] = True
    whole = called(tokens_BL, ones_BL, use_cache=True)
    same = called(tokens_BL[:, 4:8], ones_BL, past_key_values=whole.past_key_values, replace_position=replaced_BL)
    torch.testing.assert_close(same.logits, whole.logits[:, 4:8])
    other = called(MASK_ID - tokens_BL[:, 4:8], ones_BL, past_key_values=whole.past_key_values, use_cache=True,
                   replace_position=replaced_BL)
    for (old, _), (new, _) in zip(whole.past_key_values, other.past_key_values, strict=True):
        assert ((old != new).any(-1).any(1) == replaced_BL).all()


@torch.inference_mode()
def test_a_suffix_after_a_kept_prefix_stands_after_it() -> None:
    called, tokens_BL = _called(BlockCausal(4))
    prefix = called(tokens_BL[:, :8], BLOCK_MASK[..., :8, :8], use_cache=True)
    suffix = called(tokens_BL[:, 8:], BLOCK_MASK[..., 8:, :], past_key_values=prefix.past_key_values)
    torch.testing.assert_close(suffix.logits, called(tokens_BL, BLOCK_MASK).logits[:, 8:])


@torch.inference_mode()
def test_padding_that_nobody_sees_changes_nothing() -> None:
    called, tokens_BL = _called(BlockCausal(4))
    padded_BL = torch.cat((torch.full((1, 2), -1), tokens_BL), 1)
    mask = torch.zeros(1, 1, LENGTH + 2, LENGTH + 2, dtype=torch.bool)
    mask[..., 2:, 2:] = BLOCK_MASK
    position_BL = torch.cat((torch.zeros(1, 2, dtype=torch.int64), torch.arange(LENGTH)[None]), 1)
    torch.testing.assert_close(called(padded_BL, mask, position_BL).logits[:, 2:], called(tokens_BL, BLOCK_MASK).logits)


def test_an_engine_strips_padding_and_fills_what_was_not_decoded() -> None:
    class Sampler:
        def __init__(self, model: Called, tokenizer: SimpleNamespace) -> None:
            self.tokenizer = tokenizer

        def sample(self, inputs: list[list[int]], max_new_tokens: int, num_decoded: int) -> Tensor:
            assert max_new_tokens == NUM_NEW
            if num_decoded > max_new_tokens:
                raise IndexError
            return torch.tensor([[self.tokenizer.pad_token_id] * 3 + inputs[0] + [7] * num_decoded])

    model: DecodableTransformer = random_model(Bidirectional())
    engine = Sampling(Sampler).engine({"num_decoded": 4}, block=8)
    assert engine(model, [1, 2, 3, 4, 5]) == [1, 2, 3, 4, 5, 7, 7, 7, 7] + [MASK_ID] * (NUM_NEW - 4)
    assert Sampling(Sampler).engine({"num_decoded": NUM_NEW + 1})(model, [1]) == []


def test_a_file_is_loaded_without_the_package_around_it(tmp_path: Path) -> None:
    files = {"dllm/__init__.py": "import nothing_of_that_name", "dllm/core/__init__.py": "import nothing_of_that_name",
             "dllm/core/parts/__init__.py": "HALF = 21",
             "dllm/far/sampler.py": "from dllm.core.parts import HALF\nX = 2 * HALF"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert load(Source("--dllm", tmp_path, "home"), "dllm/far/sampler.py", "X").X == 42
    with pytest.raises(ValueError, match=r"sampler.py has no Y; give a checkout of home"):
        load(Source("--dllm", tmp_path, "home"), "dllm/far/sampler.py", "Y")
