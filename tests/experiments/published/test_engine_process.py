"""What an engine's process answers, here in this one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from quicksilver.decoders import presets
from quicksilver.experiments.published import engine_process
from quicksilver.experiments.published.engine_process import decoded, forward_seconds, memory_bytes, started
from quicksilver.experiments.published.engines import Decoded, Running, Task

TASK = Task(presets.autoregressive(), num_prompt=2, num_new=3, width=2, threads=1)
MIB = 1 << 20
calls: list[str] = []


class Quick:
    def decode(self, prompt: list[int]) -> Decoded:
        return Decoded([*prompt, 1], 0.25, 1.0)

    def forward(self, prompt: list[int]) -> Callable[[], None]:
        calls.append("prepared")
        return lambda: calls.append("run")


@dataclass(frozen=True)
class TakesMemory:
    """Takes 64 MiB while it starts, and gives them back."""

    name = "takes memory"
    libraries = ("numpy",)

    def start(self, path: Path, task: Task) -> Running:
        torch.ones(64 * MIB, dtype=torch.uint8).sum()
        return Quick()


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_process, "_running", {})
    monkeypatch.setattr(torch, "set_num_threads", lambda number: calls.append(f"{number} threads"))
    calls.clear()


def test_the_most_memory_while_it_started_is_told() -> None:
    before = memory_bytes("RssAnon")
    found = started(TakesMemory(), Path("model.gguf"), TASK)
    assert found["start_peak_bytes"] >= before + 32 * MIB
    assert found["start_seconds"] > 0
    assert found["versions"].keys() == {"torch", "numpy"}
    assert calls == ["1 threads"]


def test_a_turn_is_a_decode_and_forwards_of_which_the_first_does_not_count() -> None:
    started(TakesMemory(), Path("model.gguf"), TASK)
    found = decoded([4, 5])
    assert (found["tokens"], found["first_seconds"], found["seconds"]) == ([4, 5, 1], 0.25, 1.0)
    assert found["own_bytes"] > 0
    calls.clear()
    assert len(forward_seconds([4, 5], 3)) == 3
    assert calls == ["prepared", *["run"] * 4]


def test_what_the_system_does_not_tell_is_said() -> None:
    with pytest.raises(RuntimeError, match="does not tell RssOther"):
        memory_bytes("RssOther")
