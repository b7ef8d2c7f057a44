"""Scaled rotary frequencies are those of transformers; tables hold their cosines and signed sines."""

import math
from typing import Any

import pytest
import torch
from quicksilver.models.rope import (
    LinearScaling,
    Llama3Scaling,
    ProportionalScaling,
    RopeScaling,
    YarnScaling,
    frequencies,
    rotary_tables,
)
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

THETA, WIDTH = 500_000.0, 32


@pytest.mark.parametrize(("scaling", "values"), [
    (LinearScaling(4.0), {"rope_type": "linear", "factor": 4.0}),
    (Llama3Scaling(8.0, 1.0, 4.0, 64), {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                        "high_freq_factor": 4.0, "original_max_position_embeddings": 64}),
    (YarnScaling(4.0, 64), {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}),
    (YarnScaling(4.0, 64, 8.0, 2.0, 0.7, truncate=False),
     {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 8.0, "beta_slow": 2.0,
      "attention_factor": 0.7, "truncate": False}),
    (ProportionalScaling(0.4, 2.0), {"rope_type": "proportional", "partial_rotary_factor": 0.4, "factor": 2.0}),
], ids=["linear", "llama3", "yarn", "yarn with all options", "proportional"])
def test_frequencies_are_those_of_transformers(scaling: RopeScaling, values: dict[str, Any]) -> None:
    config = LlamaConfig(head_dim=WIDTH, max_position_embeddings=256, rope_parameters={"rope_theta": THETA} | values)
    wanted_H, amplitude = ROPE_INIT_FUNCTIONS[values["rope_type"]](config, torch.device("cpu"))
    found_H = frequencies(WIDTH, THETA, scaling)
    assert not torch.allclose(found_H, frequencies(WIDTH, THETA, None))
    torch.testing.assert_close(found_H.float(), wanted_H, rtol=1e-5, atol=0)
    assert scaling.amplitude == pytest.approx(amplitude)


def test_tables_hold_cosines_and_sines_whose_first_half_is_negative() -> None:
    cos_LR, sin_LR = rotary_tables(5, frequencies(4, 100.0, None), amplitude=2.0)
    assert cos_LR[3].tolist() == pytest.approx([2 * math.cos(3), 2 * math.cos(0.3)] * 2)
    sines = [2 * math.sin(3), 2 * math.sin(0.3)]
    assert sin_LR[3].tolist() == pytest.approx([-sines[0], -sines[1], *sines])


@pytest.mark.parametrize("make", [
    lambda: LinearScaling(0), lambda: Llama3Scaling(8.0, 4.0, 1.0, 64), lambda: YarnScaling(4.0, 64, 1.0, 2.0)])
def test_what_is_out_of_range_is_named(make: Any) -> None:
    with pytest.raises(ValueError, match="factor=0|high=1|beta_fast=1"):
        make()
