"""The experiment on a tiny model, with engines in this process or, slowly, in their own."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from quicksilver.decoders import presets
from quicksilver.experiments.harness.worker import CallFailed
from quicksilver.experiments.published import engine_process, in_turns
from quicksilver.experiments.published.in_turns import EnginesInTurns

from .tiny_gguf import TinyGguf

OPTIONS: dict[str, Any] = {
    "weights": TinyGguf(), "weights_folder": None, "dtypes": ["float32"], "captures": ["graph"],
    "others": ["transformers", "llama_cpp"], "prompts": ["The river rises in the hills.", "Another one, twice as long"],
    "decoder": presets.autoregressive(), "num_prompt": 4, "num_new": 4, "width": 2, "rounds": 3, "forwards": 2,
    "threads": 1}


def experiment(**changes: Any) -> EnginesInTurns:
    return EnginesInTurns(**(OPTIONS | changes))


class Here:
    """A worker in this process, with engines of its own; each call is noted."""

    order: ClassVar[list[str]] = []

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._running: dict[str, Any] = {}

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def end(self) -> None:
        pass

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        engine_process._running = self._running
        try:
            answer = function(*arguments)
        except Exception as error:
            raise CallFailed(f"{type(error).__name__}: {error}") from error
        Here.order.append(type(self._running["engine"]).__name__)
        return answer


def test_engines_take_turns_and_what_cannot_run_is_on_record(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("accelerate", reason="transformers reads GGUF files with it")
    monkeypatch.setattr(in_turns, "Worker", Here)
    monkeypatch.setattr(engine_process, "_running", {})
    monkeypatch.setattr("quicksilver.experiments.published.engines.find_spec",
                        lambda name: None if name == "llama_cpp" else name)
    Here.order.clear()
    assert experiment().run(tmp_path) == 0
    (path,) = (tmp_path / "records").glob("*.json")
    result = json.loads(path.read_text())["result"]
    engines = result["engines"]
    assert "llama_cpp is not installed" in engines["llama.cpp, the file's own types"]["failed"]
    assert [len(engine["rounds"]) for engine in engines.values() if "rounds" in engine] == [3, 3, 3]
    assert Here.order[-18:] == [name for name in ("_Own", "_Transformers", "_Products") for _ in range(2)] * 3
    ours, theirs = (engines[name]["rounds"] for name in ("ours, float32, replayed", "transformers, float32"))
    assert [turn["tokens"] for turn in ours] == [turn["tokens"] for turn in theirs]
    assert ours[0]["tokens"] == ours[2]["tokens"] != ours[1]["tokens"]  # two prompts take turns
    assert len(result["ratios"]) == 2 * 3
    said = capsys.readouterr().out
    assert "2 of 2" in said


@pytest.mark.slow
def test_in_processes_of_their_own_the_same(tmp_path: Path) -> None:
    assert experiment(others=[]).run(tmp_path) == 0
    (path,) = (tmp_path / "records").glob("*.json")
    result = json.loads(path.read_text())["result"]
    assert result["engines"].keys() == {"ours, float32, replayed", "F.linear alone, float32"}
    assert all(len(engine["rounds"]) == 3 for engine in result["engines"].values())


def test_a_dtype_that_the_processor_does_not_multiply_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"dtypes": ["float32", "bfloat16"], "others": ["transformers"]}
    names = {}
    for precision in ("float32", "bfloat16"):
        monkeypatch.setattr(in_turns, "fast_precision", lambda device, found=precision: found)
        names[precision] = [engine.name for engine in experiment(**options).engines]
    assert names["float32"] == ["ours, float32, replayed", "transformers, float32", "F.linear alone, float32"]
    assert set(names["bfloat16"]) - set(names["float32"]) == {
        "ours, bfloat16, replayed", "transformers, bfloat16", "F.linear alone, bfloat16"}


@pytest.mark.parametrize(("changes", "message"), [
    ({"dtypes": ["int3"]}, "dtypes='int3': must be one of float32, bfloat16"), ({"dtypes": []}, r"dtypes=\[\]: needs"),
    ({"captures": ["none"]}, "captures='none': must be one of graph, compile"),
    ({"others": ["vllm"]}, "others='vllm': must be one of transformers, llama_cpp"),
    ({"rounds": 1}, "rounds=1"), ({"num_new": 1}, "num_new=1"), ({"width": 0}, "width=0"),
    ({"captures": ["graph", "graph"]}, "must all be different")], ids=str)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment(**changes)


def test_a_prompt_that_is_too_short_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="prompts='Hi.*must have num_prompt=40"):
        experiment(prompts=["Hi there"], num_prompt=40).run(tmp_path)
