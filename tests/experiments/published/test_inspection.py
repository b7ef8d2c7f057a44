"""What is printed of a published model, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from quicksilver.experiments.published.checkpoint import PublishedModel
from quicksilver.experiments.published.inspection import Inspection

from tests.models.families.transformers_model import Variant

OPTIONS: dict[str, Any] = {"dtype": "bfloat16", "threads": 1, "contexts": [16, 10_000], "blocks": [1, 8],
                           "card": "H200", "machine_seconds": 0}


def test_it_says_what_the_model_is_and_what_a_step_takes_at_least(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    variant = Variant("Qwen3Moe", {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
                                   "head_dim": 16, "eos_token_id": 2})
    model: Any = variant.saved(tmp_path)
    inspection = Inspection(PublishedModel(str(tmp_path)), **OPTIONS)
    inspection.check()
    assert inspection.run(tmp_path) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["model"] == f"{tmp_path}: Qwen3MoeForCausalLM"
    assert lines["layers"] == "3 of width 48, 4 heads of 16, 2 of keys and values, feed-forward 80"
    assert lines["experts"] == "6 of 24, 2 for each position by softmax"
    total = sum(parameter.numel() for parameter in model.parameters())
    assert lines["parameters"] == f"{total:,}, of which a position uses {total - 3 * 4 * 3 * 48 * 24:,}"
    assert lines["memory"].startswith("0.00 GB in bfloat16, and 0.4 kB for each")
    assert lines["attention"] == "causal; a position's logits are of the next token"
    assert lines["special"] == "ids   mask none, eos 2"
    assert "after 632 positions" in lines["least"]  # as many as the model has, in the last line


def test_it_says_what_else_diffusion_gemma_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diffusion_gemma = pytest.importorskip("tests.models.families.test_diffusion_gemma")
    diffusion_gemma.Variant().saved(tmp_path)
    Inspection(PublishedModel(str(tmp_path)), **OPTIONS).run(tmp_path)
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["layers"] == ("3 of width 48, 4 heads of 16, 2 of keys and values, feed-forward 80; 1 see 6 "
                               "positions, the others have 4 heads of 24, 1 of keys that are values too")
    assert lines["experts"].endswith("2 for each position by softmax, beside a dense network")
    assert lines["not"] == "read      model.encoder.vision_tower, model.encoder.embed_vision"
    assert lines["attention"].startswith("causal; of a canvas of random tokens that is denoised, both ways; ")


@pytest.mark.parametrize(("changes", "reason"), [
    ({"dtype": "int3"}, "dtype='int3': must be one of float32, bfloat16, float16"),
    ({"card": "B200"}, "card='B200': must be one of H200, H100, A100"), ({"blocks": []}, r"blocks=\[\]"),
    ({"contexts": [0]}, "contexts=0"), ({"machine_seconds": -1}, "machine_seconds=-1")])
def test_bad_settings_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Inspection(PublishedModel("model"), **{**OPTIONS, **changes})


def test_a_folder_without_a_model_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json: no such file|model\.safetensors"):
        Inspection(PublishedModel(str(tmp_path)), **OPTIONS).check()
