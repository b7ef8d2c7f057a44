"""What is told of a task, and which of its models a decoder is for."""

from dataclasses import replace
from typing import Any

import pytest
from quicksilver.decoders import (
    Append,
    BlockCausalCache,
    BlockCausalCacheApart,
    Blocks,
    Cache,
    Dual,
    GridBlocks,
    Recompute,
    Windows,
)
from quicksilver.experiments.study.setup import TaskSetup, family_for
from quicksilver.models import BlockDiffusion

from tests.experiments.conftest import ONE_A_STEP, TASK, autoregressive_recipe, diffusion_recipe


def setup(**changes: Any) -> TaskSetup:
    settings: dict[str, Any] = {"steps": [1, 10], "ablation_steps": [10]}
    return TaskSetup(TASK, diffusion_recipe(), autoregressive_recipe(), **(settings | changes))


@pytest.mark.parametrize(("changes", "message"), [
    ({"steps": []}, r"steps=\[\]: needs at least one number of steps"), ({"steps": [0]}, "steps=0: must be an integer"),
    ({"steps": [2, 2]}, r"steps=\[2, 2\]: must all be different"), ({"ablation_steps": [1.5]}, "ablation_steps=1.5"),
    ({"ablation_steps": [3, 3]}, r"ablation_steps=\[3, 3\]: must all be different"),
    ({"block_size": 0}, "block_size=0: must be an integer of at least 1")])
def test_bad_settings_are_refused_by_name_and_value(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        setup(**changes)


@pytest.mark.parametrize(("windows", "cache", "family"), [
    (Blocks(1), Append(), "autoregressive"), (GridBlocks(8), BlockCausalCache(), "block_diffusion"),
    (GridBlocks(8), BlockCausalCacheApart(), "block_diffusion"), (GridBlocks(8), Recompute(), "diffusion"),
    (Blocks(8), Dual(), "diffusion")], ids=str)
def test_a_decoder_is_for_the_models_that_its_cache_serves(windows: Windows, cache: Cache, family: str) -> None:
    assert family_for(replace(ONE_A_STEP, windows=windows, cache=cache)) == family


def test_the_diffusion_model_stands_in_for_a_block_diffusion_model_that_is_not_given() -> None:
    own = replace(diffusion_recipe(), objective=BlockDiffusion(8))
    assert setup(block_diffusion=own).recipe("block_diffusion") == own
    assert setup().recipe("block_diffusion") == setup().recipe("diffusion") == diffusion_recipe()
    assert setup().recipe("autoregressive") == autoregressive_recipe()


def test_an_unknown_family_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="family='gan': must be one of autoregressive, diffusion, block_diffusion"):
        setup().recipe("gan")
