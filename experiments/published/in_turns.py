"""A published model beside the field's engines on this machine, all from the same GGUF file:

    python -m quicksilver.experiments experiment=peers

Each engine (`engines.py`) has a process of its own, and they take turns: in each round every one decodes the same
prompt, then takes forwards of `width` positions behind it. An engine that cannot run is on record with its reason.
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console

from ...decoders import Decoder
from ...kernels.checks import check_integer
from ...models.checkpoints.gguf_file import GgufFile
from ...models.text import CheckpointTokenizer
from ..harness.devices import fast_precision
from ..harness.locks import machine_alone
from ..harness.progress import Bar, bar, console
from ..harness.provenance import provenance
from ..harness.records import Json, RecordStore
from ..harness.worker import CallFailed, Worker
from ..study.checks import check_different, check_machine
from .answer import DTYPES
from .engine_process import decoded, forward_seconds, started
from .engines import STEPS, Engine, LlamaCppEngine, OwnEngine, ProductsEngine, Task, TransformersEngine
from .turn_tables import engines_table, ratios, ratios_table

OTHERS = "transformers", "llama_cpp"
# The dtypes that others have too.
_PLAIN = "float32", "bfloat16"


class GgufWeights(Protocol):
    """The source of a GGUF file."""

    def check(self) -> None:
        """ValueError with the reason if it cannot be read."""
        ...

    def fetched(self, folder: Path) -> Path:
        """The file, kept in `folder`."""
        ...


@dataclass(frozen=True)
class EnginesPoint:
    """The key of a record."""

    weights: GgufWeights
    task: Task
    prompts: Sequence[str]
    engines: Sequence[str]
    rounds: int
    forwards: int


@dataclass(frozen=True)
class EnginesInTurns:
    """This library with weights of each of `dtypes` and steps as each of `captures` says, beside `others` (transformers
    with the 16 and 32-bit ones of these dtypes, llama_cpp) and F.linear alone: `num_new` tokens after the first
    `num_prompt` tokens of each of `prompts`, and `forwards` forwards of `width` positions, in `rounds` rounds, each of
    one prompt. A dtype that this processor does not multiply is left out and said. Weights are kept in
    `weights_folder` (None: in "weights" below the output)."""

    weights: GgufWeights
    weights_folder: str | None
    dtypes: Sequence[str]
    captures: Sequence[str]
    others: Sequence[str]
    prompts: Sequence[str]
    decoder: Decoder
    num_prompt: int
    num_new: int
    width: int
    rounds: int
    forwards: int
    threads: int

    def __post_init__(self) -> None:
        check_machine("cpu", "auto", self.threads)
        for name, values, allowed in (("dtypes", self.dtypes, DTYPES), ("captures", self.captures, STEPS),
                                      ("others", self.others, OTHERS)):
            check_different(name, values)
            for value in values:
                if value not in allowed:
                    raise ValueError(f"{name}={value!r}: must be one of {', '.join(allowed)}")
        for name, values in (("dtypes", self.dtypes), ("captures", self.captures), ("prompts", self.prompts)):
            if not values:
                raise ValueError(f"{name}=[]: needs at least one")
        check_integer("num_new", self.num_new, at_least=2)
        for name in ("num_prompt", "width", "forwards"):
            check_integer(name, getattr(self, name))
        check_integer("rounds", self.rounds, at_least=max(2, len(self.prompts)))

    def check(self) -> None:
        """ValueError with the reason if the weights cannot be read, before anything is fetched."""
        self.weights.check()

    @property
    def engines(self) -> list[Engine]:
        """All that take part on this machine."""
        dtypes = [dtype for dtype in self.dtypes if dtype != "bfloat16" or fast_precision("cpu") == "bfloat16"]
        plain = [dtype for dtype in dtypes if dtype in _PLAIN]
        engines: list[Engine] = [OwnEngine(dtype, capture) for dtype in dtypes for capture in self.captures]
        if "transformers" in self.others:
            engines += [TransformersEngine(dtype) for dtype in dict.fromkeys(("float32", *plain))]
        if "llama_cpp" in self.others:
            engines.append(LlamaCppEngine())
        return [*engines, *(ProductsEngine(dtype) for dtype in plain)]

    @property
    def task(self) -> Task:
        return Task(self.decoder, self.num_prompt, self.num_new, self.width, self.threads)

    def run(self, folder: Path) -> int:
        """Measure, record in `folder` and print the tables. Returns the number of this library's engines that failed.
        """
        provenance()  # the state of the code now
        path = self.weights.fetched(Path(self.weights_folder) if self.weights_folder else folder / "weights")
        engines, prompts = self.engines, self._ids(path)
        point = EnginesPoint(self.weights, self.task, self.prompts, [engine.name for engine in engines], self.rounds,
                             self.forwards)
        with machine_alone(), ExitStack() as stack, bar("engines", len(engines) + self.rounds) as shown:
            workers = {engine: stack.enter_context(Worker({})) for engine in engines}
            found = self._measured(workers, path, prompts, shown)
        records = RecordStore(folder / "records")
        records.write(point, found, provenance())
        output = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 150)
        for table in (engines_table(found, self.width), ratios_table(found, self.width)):
            output.print(table, soft_wrap=False)
        for name, engine in found["engines"].items():
            if "failed" in engine:
                console.print(f"{name}: {engine['failed']}", markup=False)
        if "bfloat16" in self.dtypes and fast_precision("cpu") != "bfloat16":
            console.print("bfloat16: not measured, this processor has no products of it", markup=False)
        console.print(f"record: {records.path(point)}", markup=False)
        return sum("failed" in found["engines"][engine.name] for engine in engines if isinstance(engine, OwnEngine))

    def _ids(self, path: Path) -> list[list[int]]:
        tokenizer = CheckpointTokenizer.from_gguf(GgufFile.opened(path).header.values, str(path))
        found = [tokenizer.encode(text) for text in self.prompts]
        for text, ids in zip(self.prompts, found, strict=True):
            if len(ids) < self.num_prompt:
                raise ValueError(f"prompts={text!r}: has {len(ids)} tokens; must have num_prompt={self.num_prompt}")
        return [ids[: self.num_prompt] for ids in found]

    def _measured(self, workers: Mapping[Engine, Worker], path: Path, prompts: Sequence[list[int]], shown: Bar) -> Json:
        found: dict[str, Json] = {}
        for place, (engine, worker) in enumerate(workers.items()):
            shown.update(place, f"starting {engine.name}")
            try:
                found[engine.name] = worker.ask(started, engine, path, self.task) | {"rounds": []}
                _turn(worker, prompts[0], self.task, self.forwards)  # compiles what is not yet
            except CallFailed as error:
                found[engine.name] = {"failed": str(error)}
                worker.end()
        for number in range(self.rounds):
            shown.update(len(workers) + number, f"round {number + 1}")
            for engine, worker in workers.items():
                if "failed" not in found[engine.name]:
                    prompt = prompts[number % len(prompts)]
                    found[engine.name]["rounds"].append(_turn(worker, prompt, self.task, self.forwards))
        running = [engine for engine in workers if "failed" not in found[engine.name]]
        return {"engines": found, "prompt_ids": list(prompts), "ratios": [
            ratio.to_json() for ratio in ratios({engine: found[engine.name]["rounds"] for engine in running})]}


def _turn(worker: Worker, prompt: list[int], task: Task, forwards: int) -> Json:
    """A decode and forwards: what they took, by measure, and what else there is to say of them."""
    turn = worker.ask(decoded, prompt)
    of_forwards = worker.ask(forward_seconds, prompt, forwards)
    first = turn["first_seconds"]
    return turn | {"forward_seconds": of_forwards, "took": {
        "token": (turn["seconds"] - first) / (task.num_new - 1), "first": first,
        "forward": statistics.median(of_forwards)}}
