"""What each engine does with a tiny model: the same tokens, and forwards behind the same prompt."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from quicksilver.decoders import presets
from quicksilver.experiments.published import engines
from quicksilver.experiments.published.engines import (
    Engine,
    LlamaCppEngine,
    NotInstalled,
    OwnEngine,
    ProductsEngine,
    Task,
    TransformersEngine,
)
from quicksilver.models import load

from .tiny_gguf import TinyGguf

TASK = Task(presets.autoregressive(), num_prompt=4, num_new=6, width=3, threads=1)
PROMPT = [5, 9, 2, 7]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyGguf().fetched(tmp_path_factory.mktemp("weights"))


def test_all_that_make_tokens_make_the_same_and_tell_when_the_first_came(path: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers reads GGUF files with it")
    decodes = [engine.start(path, TASK).decode(PROMPT) for engine in (
        OwnEngine("float32", "graph"), TransformersEngine("float32"), ProductsEngine("float32"))]
    assert decodes[0].tokens is not None
    assert len(decodes[0].tokens) == TASK.num_new
    assert decodes[0].tokens == decodes[1].tokens
    assert decodes[2].tokens is None
    assert all(0 < found.first_seconds < found.seconds for found in decodes)


def test_a_forward_gives_the_logits_that_follow_the_prompt_as_often_as_it_is_called(path: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers reads GGUF files with it")
    run = TransformersEngine("float32").start(path, TASK).forward(PROMPT)
    logits_BFV: Any = [run() for _ in range(2)][-1]
    loaded = load(path, device="cpu", say=lambda line: None)
    with torch.inference_mode():
        hidden_BLE = loaded.model.transformer.sequence_hidden(torch.tensor([[*PROMPT, *[0] * TASK.width]]))
        wanted_BFV = loaded.model.logits(hidden_BLE)[:, len(PROMPT) :]
    torch.testing.assert_close(logits_BFV, wanted_BFV, atol=1e-4, rtol=1e-4)


def test_our_forward_is_replayed_on_the_positions_behind_the_prompt(
        path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    real = engines.replay_of
    monkeypatch.setattr(engines, "replay_of", lambda entries: kept.append(entries) or real(entries))
    running = OwnEngine("float32", "graph").start(path, TASK)
    kept.clear()
    run = running.forward(PROMPT)
    run()
    (entries,) = kept
    products = [entry for entry in entries if "linear" in str(entry.operator) or "mm" in str(entry.operator)]
    assert len(products) >= 2 * 4 + 1  # of the two layers and the head


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_are_of_every_weight_of_a_forward(dtype: str, path: Path) -> None:
    running: Any = ProductsEngine(dtype).start(path, TASK)
    transformer = load(path, device="cpu", say=lambda line: None).model.transformer
    assert [weight.shape for weight in running._weights] == [layer.weight.shape for layer in transformer.linear_layers]
    assert running._weights[-1].shape == transformer.head.weight.shape
    assert {str(weight.dtype) for weight in running._weights} == {f"torch.{dtype}"}


@pytest.mark.parametrize(("engine", "library"), [(LlamaCppEngine(), "llama_cpp"),
                                                 (TransformersEngine("float32"), "transformers")])
def test_a_library_that_is_not_installed_is_named(
        engine: Engine, library: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(NotInstalled, match=f"{library} is not installed: pip install"):
        engine.start(path, TASK)


class Llama:
    """Counts as llama-cpp-python does: `eval` goes on from n_tokens, `generate` reuses what a prompt begins with."""

    def __init__(self, path: str, **options: Any) -> None:
        self.n_tokens, self.options, self.computed = 0, options, 0

    def reset(self) -> None:
        self.n_tokens = 0

    def eval(self, tokens: list[int]) -> None:
        self.n_tokens += len(tokens)
        self.computed += len(tokens)
        assert self.n_tokens <= self.options["n_ctx"]

    def generate(self, tokens: list[int], **options: Any) -> Any:
        assert (options["top_k"], options["temp"], options["repeat_penalty"]) == (1, 0.0, 1.0)
        self.eval(tokens[self.n_tokens :])
        for token in range(1000):
            yield token
            self.eval([token])


def test_llama_cpp_computes_each_prompt_anew_and_each_forward_behind_it(
        path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("llama_cpp")
    module.Llama, module.__spec__ = Llama, ModuleSpec("llama_cpp", None)
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    running: Any = LlamaCppEngine().start(path, TASK)
    llama = running._llama
    for _ in range(2):
        llama.computed = 0
        assert running.decode(PROMPT).tokens == [0, 1, 2, 3, 4, 5]
        assert llama.computed == len(PROMPT) + TASK.num_new - 1
    run = running.forward(PROMPT)
    for _ in range(3):
        llama.computed = 0
        run()
        assert (llama.computed, llama.n_tokens) == (TASK.width, len(PROMPT) + TASK.width)
    assert (llama.options["n_threads"], llama.options["n_threads_batch"]) == (1, 1)
