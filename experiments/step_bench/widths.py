"""How long a step of published weights takes, by its number of positions:

    python -m quicksilver.experiments experiment=step_widths model=smollm2

A step of one position is autoregression's; one of several is of a block behind a block-causal cache, for which causal
weights are not trained: the time does not depend on that. All are timed in turns, round by round. A block's step breaks
even with autoregression in the same dtype where it commits

    tokens = time of the block's step / time of the autoregressive step

The forward that stores a finished block is another one, which commits nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Protocol

import torch
from rich.table import Table

from ...kernels.checks import check_integer
from ...kernels.dispatch import Implementation, named, recording, using
from ...models import LoadedModel, SeparateHead
from ..harness.devices import check_device, wait_for
from ..harness.locks import machine_alone
from ..harness.paired import LEAST_ROUNDS, interleaved, paired_ratio
from ..harness.progress import console
from ..harness.provenance import provenance
from ..harness.records import Json, RecordStore
from .point import ModelShape, StepPoint
from .prepared_step import PreparedStep
from .timing import quantiles

_CAPTURES = ("auto", "none", "graph", "compile")
_FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NUM_WARM_UPS = 3  # the first step is taken, the second captured


class Weights(Protocol):
    """The source of a published model."""

    def check(self) -> None:
        """ValueError with the reason if it cannot be loaded."""
        ...

    def load(self, folder: Path, dtype: torch.dtype | str, device: str) -> LoadedModel:
        """The model, its weights in `dtype` on the device; what is fetched is kept in `folder`."""
        ...


@dataclass(frozen=True)
class WidthPoint:
    """Steps of `widths` positions after `context` stored ones, in `dtypes`, timed in turns."""

    weights: Weights
    dtypes: tuple[str, ...]
    widths: tuple[int, ...]
    context: int
    num_rounds: int
    threads: int
    device: str
    kernels: str
    capture: str


@dataclass(frozen=True)
class StepWidths:
    """`widths` has the 1 of autoregression, and each divides `context`. `dtypes` are those that `models.load` takes,
    by name. `capture` is how steps are taken, as in decodes. What is fetched is kept in `weights_folder` (None: in
    "weights" below the output)."""

    weights: Weights
    weights_folder: str | None
    dtypes: Sequence[str]
    widths: Sequence[int]
    context: int
    num_rounds: int
    threads: int
    device: str
    kernels: str
    capture: str

    def __post_init__(self) -> None:
        check_device(self.device)
        check_integer("threads", self.threads)
        check_integer("context", self.context)
        check_integer("num_rounds", self.num_rounds, at_least=LEAST_ROUNDS)
        for name, values in (("dtypes", self.dtypes), ("widths", self.widths)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}={list(values)}: must be all different, at least one")
        for width in self.widths:
            check_integer("widths", width)
            if self.context % width:
                raise ValueError(f"widths={width}: must divide context={self.context}")
        if 1 not in self.widths:
            raise ValueError(f"widths={list(self.widths)}: must have 1, autoregression's")
        if self.capture not in _CAPTURES or (self.capture == "compile" and self.device != "cpu"):
            raise ValueError(f"capture={self.capture!r} with device={self.device}: must be one of "
                             f"{', '.join(_CAPTURES)}, compile on cpu")
        if self.capture == "auto":
            object.__setattr__(self, "capture", "graph")

    def check(self) -> None:
        """ValueError with the reason if the weights cannot be read, before anything is fetched."""
        self.weights.check()
        with using(Implementation.named(self.kernels)):
            pass  # ValueError if they cannot run

    def run(self, folder: Path) -> int:
        """Time the steps, record them in `folder` and print the table. Returns 0; a failure raises."""
        provenance()  # the state of the code now
        torch.set_num_threads(self.threads)
        kept = Path(self.weights_folder) if self.weights_folder else folder / "weights"
        loaded = [self.weights.load(kept, _FLOATS.get(dtype, dtype), self.device) for dtype in self.dtypes]
        point = WidthPoint(self.weights, tuple(self.dtypes), tuple(self.widths), self.context, self.num_rounds,
                           self.threads, self.device, self.kernels, self.capture)
        with machine_alone(), using(Implementation.named(self.kernels)):
            result = timed_in_turns(point, loaded)
        store = RecordStore(folder / "records")
        store.write(point, result, provenance())
        console.print(_table(point, result))
        console.print(f"record: {store.path(point)}", markup=False)
        return 0


@torch.inference_mode()
def timed_in_turns(point: WidthPoint, loaded: Sequence[LoadedModel]) -> Json:
    """Milliseconds of each step, median, 20th and 80th percentile, and the tokens at which it breaks even with the
    interval that covers them in 95 % of all runs, where rounds do not depend on one another."""
    kinds = [(dtype, width) for dtype in point.dtypes for width in point.widths]
    with recording() as ran:
        steps = [_prepared(point, model, width) for model in loaded for width in point.widths]
        device = loaded[0].model.spec.device
        rounds = interleaved([_sampler(step, device) for step in steps], point.num_rounds)
    times = dict(zip(kinds, rounds, strict=True))
    return {"model": loaded[0].description.architecture, "num_parameters": loaded[0].model.transformer.num_parameters(),
            "steps": list(_rows(times)), "kernels": named(ran)}


def _rows(times: dict[tuple[str, int], list[float]]) -> Iterator[Json]:
    for (dtype, width), milliseconds in times.items():
        tokens = paired_ratio(milliseconds, times[dtype, 1])
        yield {"dtype": dtype, "positions": width, "ms": quantiles(milliseconds), "rounds_ms": milliseconds,
               "tokens": [tokens.median, tokens.low, tokens.high]}


def _prepared(point: WidthPoint, loaded: LoadedModel, width: int) -> PreparedStep:
    """A step, warmed up."""
    transformer, config = loaded.model.transformer, loaded.model.config
    shape = ModelShape(config.vocab_size, config.shape)
    dtype = str(transformer.norm.weight.dtype).removeprefix("torch.")
    of = StepPoint(loaded.description.architecture, shape, point.context, None if width == 1 else width, "separate",
                   SeparateHead(), point.kernels, dtype, config.max_length)
    step = PreparedStep.of(of, transformer, point.capture, loaded.model.packing)
    for _ in range(_NUM_WARM_UPS):
        step()
        step.restore()
    return step


def _sampler(step: PreparedStep, device: torch.device) -> Callable[[], float]:
    """Takes the step and says how many milliseconds it took."""

    def sample() -> float:
        step.restore()
        wait_for(device)
        began = perf_counter()
        step()
        wait_for(device)
        return 1e3 * (perf_counter() - began)

    return sample


def _table(point: WidthPoint, result: Json) -> Table:
    table = Table(title=f"{result['model']}, {result['num_parameters'] / 1e6:,.0f}M parameters: a step after "
                  f"{point.context} positions ({point.device}, {point.threads} threads, capture={point.capture}, "
                  f"{point.num_rounds} rounds)", title_justify="left", box=None, header_style="bold", padding=(0, 1))
    for name in ("dtype", "positions", "ms", "p20 - p80", "tokens to break even", "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result["steps"]:
        (median, low, high), (tokens, least, most) = row["ms"], row["tokens"]
        table.add_row(row["dtype"], str(row["positions"]), f"{median:.2f}", f"{low:.2f} - {high:.2f}", f"{tokens:.2f}",
                      f"{least:.2f} - {most:.2f}")
    return table
