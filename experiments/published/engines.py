"""What decodes a published model, each in a process of its own (`in_turns.py` takes them in turns): this library,
transformers, llama.cpp by llama-cpp-python, and, as a floor that none of them does without, F.linear alone over the
same weights.

All decode one prompt at batch 1, greedily, with a cache, and past end tokens; and all take a forward of `width`
positions behind the prompt. llama.cpp gives the logits of the last of these alone, the others of each.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ...decoders import CapturedSteps, Decoder, stream_generate
from ...decoders.capture.operators import replay_of
from ...decoders.capture.program import compiled
from ...decoders.capture.tape import Tape
from ...kernels.token_statistics import StatisticsRequest, TokenStatistics
from ...models import LoadedModel, Plan, load
from .answer import DTYPES

STEPS = {"graph": "replayed", "compile": "compiled"}
# The prompt's step is captured in the second decode.
_DECODES_TO_CAPTURE = 3


class NotInstalled(RuntimeError):
    """An engine's library is not there."""


@dataclass(frozen=True)
class Task:
    """What every engine does: `num_new` tokens after a prompt of `num_prompt`, and `width` positions behind it."""

    decoder: Decoder
    num_prompt: int
    num_new: int
    width: int
    threads: int


@dataclass(frozen=True)
class Decoded:
    """The new tokens of a decode, None of an engine that makes none; seconds to the first one, and in all."""

    tokens: list[int] | None
    first_seconds: float
    seconds: float


class Running(Protocol):
    """An engine with its weights loaded."""

    def decode(self, prompt: list[int]) -> Decoded: ...

    def forward(self, prompt: list[int]) -> Callable[[], object]:
        """A forward of the task's `width` positions, any tokens, behind the prompt: as often as it is called."""
        ...


class Engine(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def libraries(self) -> tuple[str, ...]:
        """The distributions that it is made of, besides torch."""
        ...

    def start(self, path: Path, task: Task) -> Running:
        """Load the weights at `path`. NotInstalled, ValueError or another error with the reason if it cannot."""
        ...


@dataclass(frozen=True)
class OwnEngine:
    """This library: weights of `dtype`, steps replayed (graph) or compiled (compile)."""

    dtype: str
    capture: str
    libraries = ("quicksilver",)

    @property
    def name(self) -> str:
        return f"ours, {self.dtype}, {STEPS[self.capture]}"

    def start(self, path: Path, task: Task) -> Running:
        running = _Own(_loaded(path, self.dtype), task, self.capture)
        for _ in range(_DECODES_TO_CAPTURE):
            running.decode([0] * task.num_prompt)
        return running


class _Own:
    def __init__(self, loaded: LoadedModel, task: Task, capture: str) -> None:
        self._model, self._task, self._compiles = loaded.model, task, capture == "compile"
        self._runner = CapturedSteps.named(capture, task.decoder)

    def decode(self, prompt: list[int]) -> Decoded:
        began, first = time.perf_counter(), None
        stream = stream_generate(self._model, self._task.decoder, [prompt], num_new=self._task.num_new,
                                 runner=self._runner)
        for _ in stream:
            first = first or time.perf_counter()
        ended = time.perf_counter()
        assert first is not None
        return Decoded(stream.finish().completions[0].completion, first - began, ended - began)

    def forward(self, prompt: list[int]) -> Callable[[], None]:
        model, behind, length = self._model, len(prompt), len(prompt) + self._task.width
        store = model.new_store(1, length)
        tokens_1S = torch.tensor([[*prompt, *[0] * (self._task.width + 1)]])
        best = StatisticsRequest(frozenset())

        def step(first: int, stop: int) -> TokenStatistics:
            plan = Plan(torch.arange(first, stop)[None], context=stop)
            return model.statistics(model.hidden(tokens_1S, plan, store), best)

        with torch.inference_mode():
            step(0, behind)
            with Tape() as tape:
                result = step(behind, length)
            if tape.reason is not None:
                raise RuntimeError(f"a forward of {self._task.width} positions is not captured: {tape.reason}")
            entries, _ = tape.finish(result)
            replay = compiled(entries) if self._compiles else replay_of(entries)
        return torch.inference_mode()(replay)


@dataclass(frozen=True)
class TransformersEngine:
    """transformers' `generate` with its default attention, weights of `dtype`."""

    dtype: str
    libraries = ("transformers",)

    @property
    def name(self) -> str:
        return f"transformers, {self.dtype}"

    def start(self, path: Path, task: Task) -> Running:
        for library in ("transformers", "accelerate"):
            _find(library, "pip install 'quicksilver[peers]' accelerate")
        from transformers import AutoModelForCausalLM  # pyright: ignore[reportMissingImports]

        dtype: Any = {"dtype": DTYPES[self.dtype]}
        network = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, **dtype).eval()
        return _Transformers(network, task)


class _Transformers:
    def __init__(self, network: Any, task: Task) -> None:
        self._network, self._task = network, task

    def decode(self, prompt: list[int]) -> Decoded:
        prompt_1P, arrived = torch.tensor([prompt]), _Arrivals()
        began = time.perf_counter()
        found_1S = self._network.generate(
            prompt_1P, attention_mask=torch.ones_like(prompt_1P), max_new_tokens=self._task.num_new, do_sample=False,
            eos_token_id=None, pad_token_id=0, streamer=arrived)
        ended = time.perf_counter()
        return Decoded(found_1S[0, len(prompt) :].tolist(), arrived.times[1] - began, ended - began)

    @torch.inference_mode()
    def forward(self, prompt: list[int]) -> Callable[[], object]:
        held = self._network(torch.tensor([prompt]), use_cache=True).past_key_values
        fed_1F = torch.zeros(1, self._task.width, dtype=torch.int64)

        @torch.inference_mode()
        def run() -> object:
            logits_1FV = self._network(fed_1F, past_key_values=held, use_cache=True).logits
            held.crop(-self._task.width)
            return logits_1FV

        return run


class _Arrivals:
    """A streamer of `generate`: when the prompt and each token came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


@dataclass(frozen=True)
class LlamaCppEngine:
    """llama.cpp on the GGUF file as it is, by llama-cpp-python."""

    libraries = ("llama-cpp-python",)

    @property
    def name(self) -> str:
        return "llama.cpp, the file's own types"

    def start(self, path: Path, task: Task) -> Running:
        _find("llama_cpp", "pip install llama-cpp-python")
        from llama_cpp import Llama  # pyright: ignore[reportMissingImports]

        context = task.num_prompt + max(task.num_new, task.width)
        return _LlamaCpp(Llama(str(path), n_ctx=context, n_threads=task.threads, n_threads_batch=task.threads,
                               verbose=False), task)


class _LlamaCpp:
    def __init__(self, llama: Any, task: Task) -> None:
        self._llama, self._task = llama, task

    def decode(self, prompt: list[int]) -> Decoded:
        self._llama.reset()  # or it would not compute again what two prompts have in common
        tokens: list[int] = []
        began, first = time.perf_counter(), None
        for token in self._llama.generate(prompt, top_k=1, temp=0.0, repeat_penalty=1.0):
            first = first or time.perf_counter()
            tokens.append(token)
            if len(tokens) == self._task.num_new:
                break
        ended = time.perf_counter()
        assert first is not None
        return Decoded(tokens, first - began, ended - began)

    def forward(self, prompt: list[int]) -> Callable[[], None]:
        self._llama.reset()
        self._llama.eval(prompt)

        def run() -> None:
            self._llama.n_tokens = len(prompt)  # from where `eval` goes on
            self._llama.eval([0] * self._task.width)

        return run


@dataclass(frozen=True)
class ProductsEngine:
    """F.linear by each weight of a forward, of `dtype` and as it lies, and nothing else: for the prompt, and then once
    for each further token."""

    dtype: str
    libraries = ()

    @property
    def name(self) -> str:
        return f"F.linear alone, {self.dtype}"

    def start(self, path: Path, task: Task) -> Running:
        transformer = _loaded(path, self.dtype).model.transformer
        transformer.unpack()
        return _Products([layer.weight.detach() for layer in transformer.linear_layers], task)


class _Products:
    def __init__(self, weights: list[Tensor], task: Task) -> None:
        self._weights, self._task = weights, task

    def decode(self, prompt: list[int]) -> Decoded:
        of_prompt, of_token = self._products(len(prompt), of_head=1), self._products(1, of_head=1)
        began = time.perf_counter()
        of_prompt()
        first = time.perf_counter()
        for _ in range(self._task.num_new - 1):
            of_token()
        return Decoded(None, first - began, time.perf_counter() - began)

    def forward(self, prompt: list[int]) -> Callable[[], None]:
        return self._products(self._task.width, of_head=self._task.width)

    def _products(self, num_rows: int, of_head: int) -> Callable[[], None]:
        """Of so many rows by every weight, but by the head's, the last one."""
        rows = [*[num_rows] * (len(self._weights) - 1), of_head]
        pairs = [(torch.ones(count, weight.shape[1], dtype=weight.dtype), weight)
                 for count, weight in zip(rows, self._weights, strict=True)]

        @torch.inference_mode()
        def run() -> None:
            for x_FK, weight_NK in pairs:
                F.linear(x_FK, weight_NK)

        return run


def _find(library: str, remedy: str) -> None:
    if find_spec(library) is None:
        raise NotInstalled(f"{library} is not installed: {remedy}")


def _loaded(path: Path, dtype: str) -> LoadedModel:
    return load(path, dtype=DTYPES[dtype], device="cpu", say=lambda line: None)
