"""Answer a prompt with published weights:

    python -m quicksilver.experiments experiment=generate model.path=FOLDER prompt="..."

experiment=smollm2 fetches some. Our own Transformer decodes it. The answer streams to stdout from its first token on;
then follow tokens per second, of prefill and decode separately, and the kernels that ran. Every run is measured again,
never read from a record.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import torch

from ...decoders import CapturedSteps, Decoder, stream_generate
from ...decoders.generation import Generation, GenerationStream
from ...kernels.checks import check_integer
from ...kernels.dispatch import Implementation, Ran, named, recording, using
from ...models import LoadedModel
from ...models.quantization import FORMATS
from ...models.text import CheckpointTokenizer
from ..harness.devices import wait_for
from ..harness.locks import machine_alone
from ..harness.progress import console
from ..harness.provenance import provenance
from ..harness.records import ADDED_LATER, Json, RecordStore
from ..study.checks import capture_field, check_different, check_machine
from ..training.recipe import LARGEST_SEED

DTYPES: dict[str, torch.dtype | str] = {
    "float32": torch.float32, "bfloat16": torch.bfloat16, **{name: name for name in FORMATS}}
_LIBRARIES = ("gguf", "tokenizers")


class Weights(Protocol):
    """The source of a published model."""

    def check(self) -> None:
        """ValueError with the reason if it cannot be loaded."""
        ...

    def load(self, folder: Path, dtype: torch.dtype | str, device: str) -> LoadedModel:
        """The model, its weights in `dtype`, one of DTYPES, on the device; what is fetched is kept in `folder`."""
        ...


@dataclass(frozen=True)
class AnswerPoint:
    """One answer; the decoder stops at the end token of the weights' tokenizer."""

    weights: Weights
    prompt: str
    decoder: Decoder
    seed: int
    num_new: int
    dtype: str
    threads: int
    device: str
    kernels: str
    capture: str = field(default="none", metadata=ADDED_LATER)
    warm: bool = field(default=True, metadata=ADDED_LATER)


@dataclass(frozen=True)
class Answer:
    """`prompt` answered in at most `num_new` tokens, once per seed. `device` is cpu or cuda, `kernels` auto, reference,
    cpu or triton, `capture` how steps are taken, `dtype` that of the weights, which are kept in `weights_folder` (None:
    in "weights" below the output). Where `warm`, the answer is decoded again after it was written, and that is timed;
    else what was written is, which began cold."""

    weights: Weights
    weights_folder: str | None
    prompt: str
    decoder: Decoder
    seeds: Sequence[int]
    num_new: int
    dtype: str
    threads: int
    device: str
    kernels: str
    capture: str = "none"
    warm: bool = False

    def __post_init__(self) -> None:
        check_machine(self.device, self.kernels, self.threads)
        capture_field(self)
        if not self.prompt.strip():
            raise ValueError(f"prompt={self.prompt!r}: must hold a text to answer")
        check_integer("num_new", self.num_new)
        if not self.seeds:
            raise ValueError("seeds=[]: needs at least one")
        for seed in self.seeds:
            check_integer("seeds", seed, at_least=0, at_most=LARGEST_SEED)
        check_different("seeds", self.seeds)
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r}: must be one of {', '.join(DTYPES)}")

    def check(self) -> None:
        """ValueError with the reason if the weights cannot be read, before anything is fetched."""
        self.weights.check()

    def points(self) -> Iterator[AnswerPoint]:
        for seed in self.seeds:
            yield AnswerPoint(self.weights, self.prompt, self.decoder, seed, self.num_new, self.dtype, self.threads,
                              self.device, self.kernels, self.capture, self.warm)

    def run(self, folder: Path) -> int:
        """Decode and record each answer in `folder`. Returns 0; a failure raises."""
        provenance()  # the state of the code now
        torch.set_num_threads(self.threads)
        kept = Path(self.weights_folder) if self.weights_folder else folder / "weights"
        loaded = self.weights.load(kept, DTYPES[self.dtype], self.device)
        records = RecordStore(folder / "records")
        for point in self.points():
            with machine_alone(), using(Implementation.named(self.kernels)):
                result = answered(point, loaded)
            records.write(point, result, provenance())
            _say(point, result, records.path(point))
        return 0


def prompt_of(tokenizer: CheckpointTokenizer, text: str) -> list[int]:
    """The tokens of a user's message, in the chat template if there is one."""
    if tokenizer.chat_template is None:
        return tokenizer.encode(text)
    return tokenizer.apply_chat_template([{"role": "user", "content": text}])


def answered(point: AnswerPoint, loaded: LoadedModel) -> Json:
    """Decode one answer, streaming it to stdout; where the point is warm, then once more unseen, or twice where steps
    are captured (of a layout's first step on), of which the last is timed. Prefill is timed from the prompt's tokens to
    the first token of the answer, decode from there to the last."""
    model, tokenizer = loaded.model, loaded.tokenizer
    prompt = prompt_of(tokenizer, point.prompt)
    decoder = replace(point.decoder, end_id=tokenizer.end_ids)
    runner = CapturedSteps.named(point.capture, decoder)

    def decoded(read: Callable[[GenerationStream], float]) -> tuple[Generation, float, float, Ran]:
        """What was decoded, the seconds to the first token and from there on, and the kernels that ran."""
        with recording() as ran:
            began = time.perf_counter()
            stream = stream_generate(model, decoder, [prompt], num_new=point.num_new, tokenizer=tokenizer,
                                     seeds=[point.seed], runner=runner)
            first = read(stream)
            wait_for(model.spec.device)
            ended = time.perf_counter()
        return stream.finish(), first - began, ended - first, ran

    generation, prefill_seconds, decode_seconds, ran = decoded(written)
    for _ in range(0 if not point.warm else 1 if runner is None else 2):
        generation, prefill_seconds, decode_seconds, ran = decoded(_first_step)
    (completion,), steps = generation.completions, len(generation.trace.steps)
    assert generation.texts is not None
    return {
        "text": generation.texts[0], "tokens": completion.completion, "num_prompt_tokens": len(prompt),
        "prefill_seconds": prefill_seconds, "prefill_tokens_per_second": len(prompt) / prefill_seconds,
        "decode_seconds": decode_seconds, "num_steps": steps,
        "decode_tokens_per_second": (len(completion.completion) - 1) / decode_seconds if steps > 1 else None,
        "kernels": named(ran),
        "dtype": point.dtype,
        "model": f"{loaded.published['architectures'][0]} in {type(model).__name__}",
        "accounting": generation.accounting.to_json(model),
        "steps": None if runner is None else runner.replays.to_json(),
        "libraries": {name: metadata.version(name) for name in _LIBRARIES if find_spec(name)}}


def written(stream: GenerationStream) -> float:
    """Write the text as it is decided from the left on, in whole characters. Returns the time after the first step."""
    first, shown = None, ""
    for update in stream:
        first = first or time.perf_counter()
        assert update.decided is not None
        decided = update.decided[0]
        if decided.startswith(shown):
            print(decided[len(shown) :], end="", flush=True)
            shown = decided
    texts = stream.finish().texts
    assert first is not None
    assert texts is not None
    # A decoder that revises may have changed what was written: then the answer follows, whole.
    print(texts[0].removeprefix(shown) if texts[0].startswith(shown) else f"\n{texts[0]}", flush=True)
    return first


def _first_step(stream: GenerationStream) -> float:
    """Take all steps. Returns the time after the first."""
    times = [time.perf_counter() for _ in stream]
    return times[0]


def _say(point: AnswerPoint, result: Json, path: Path) -> None:
    speed = result["decode_tokens_per_second"]
    decoding = "no more" if speed is None else f"{speed:.1f} tokens/s"
    timed = "decoded again, warm" if point.warm else "as written, begun cold"
    ran = ", ".join(f"{name} {what}" for name, what in result["kernels"].items())
    versions = " ".join(f"{name} {version}" for name, version in result["libraries"].items())
    for line in (
            f"prompt {result['num_prompt_tokens']} tokens: {result['prefill_tokens_per_second']:.1f} tokens/s; answer "
            f"{len(result['tokens'])} tokens: {decoding} after the first ({timed})",
            f"{result['model']}, {result['dtype']}, {point.device}, {point.threads} threads; cache "
            f"{type(point.decoder.cache).__name__.lower()}; {ran}",
            f"torch {torch.__version__} {versions}",
            f"record: {path}"):
        console.print(line, markup=False)
