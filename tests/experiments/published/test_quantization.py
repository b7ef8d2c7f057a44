"""What fewer bits change is measured against float32, and recorded once."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from quicksilver.decoders import presets
from quicksilver.experiments.published.quantization import Answers, QuantizationLoss, compared

from tests.experiments.published.test_answer import Tiny


def experiment(**changes: Any) -> QuantizationLoss:
    settings: dict[str, Any] = {
        "weights": Tiny(), "weights_folder": None, "prompts": ["Why?", "Who is it?"], "num_new": 12, "threads": 1,
        "decoder": presets.autoregressive(), "dtypes": ["int8", "int4"]}
    return QuantizationLoss(**(settings | changes))


def test_fewer_bits_are_further_away_and_what_is_recorded_is_not_measured_again(tmp_path: Path) -> None:
    assert experiment().run(tmp_path) == 0
    paths = list((tmp_path / "records").glob("*.json"))
    records = {record["point"]["dtype"]: record["result"] for record in map(json.loads, map(Path.read_text, paths))}
    assert records["int4"]["num_tokens"] == 24
    for name in ("logit_distance", "kl_nats"):
        assert 0 < records["int8"][name] < records["int4"][name]
    assert records["int8"]["share_of_choices_changed"] <= records["int4"]["share_of_choices_changed"] <= 1
    assert "4 bits in groups of 32" in records["int4"]["linear"]
    before = {path: path.stat().st_mtime_ns for path in paths}
    assert experiment().run(tmp_path) == 0
    assert {path: path.stat().st_mtime_ns for path in paths} == before


def test_float32_beside_itself_differs_in_nothing(tmp_path: Path) -> None:
    (point,) = experiment(dtypes=["int8"]).points()
    loaded = Tiny().load(tmp_path, torch.float32, "cpu")
    answers = Answers.of(point, loaded)
    logits_TV = answers.logits(loaded)
    assert logits_TV.argmax(-1).tolist() == [token for completion in answers.completions for token in completion]
    result = compared(replace(point, dtype="float32"), loaded, answers, logits_TV)
    assert (result["logit_distance"], result["share_of_choices_changed"]) == (0, 0)
    assert result["share_of_answers_changed"] == 0


@pytest.mark.parametrize(("changes", "message"), [
    ({"prompts": []}, r"prompts=\[\]: needs at least one"), ({"dtypes": []}, r"dtypes=\[\]: needs at least one"),
    ({"dtypes": ["float32"]}, r"dtypes=\['float32'\]: must be of bfloat16, int4, int8"), ({"num_new": 0}, "num_new=0")])
def test_settings_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment(**changes)
