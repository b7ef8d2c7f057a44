"""What engines in turns took, as tables and ratios.

    ratio = theirs / ours, the geometric mean over rounds, and its 95 % interval by Student's t over the logarithms
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.table import Table

from ..harness.records import Json
from ..study.intervals import mean_interval
from .engines import Engine, LlamaCppEngine, OwnEngine, ProductsEngine, TransformersEngine

# By what a turn is measured: each token after the first, the time to the first one, several positions at once.
MEASURES = "token", "first", "forward"
REFERENCE = TransformersEngine("float32").name


@dataclass(frozen=True)
class Ratio:
    """How many times as long another engine takes as ours, and its 95 % interval."""

    ours: str
    theirs: str
    measure: str
    ratio: float
    low: float
    high: float

    def to_json(self) -> Json:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.ratio:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratios(turns: Mapping[Engine, Sequence[Json]]) -> Iterator[Ratio]:
    """Of each of our engines to those that it is compared with, from the rounds of all: at least two."""
    for ours, own in turns.items():
        for theirs, other in turns.items():
            if isinstance(ours, OwnEngine) and _are_compared(ours, theirs):
                for measure in MEASURES:
                    logs = [math.log(b["took"][measure] / a["took"][measure]) for a, b in zip(own, other, strict=True)]
                    mean, half = mean_interval(logs)
                    assert half is not None
                    yield Ratio(ours.name, theirs.name, measure, math.exp(mean), math.exp(mean - half),
                                math.exp(mean + half))


def _are_compared(ours: OwnEngine, theirs: Engine) -> bool:
    """transformers and F.linear of the same dtype, or of float32 where there are none of it; llama.cpp always."""
    if isinstance(theirs, TransformersEngine | ProductsEngine):
        return theirs.dtype == (ours.dtype if ours.dtype == "bfloat16" else "float32")
    return isinstance(theirs, LlamaCppEngine)


def engines_table(found: Json, width: int) -> Table:
    """A line for each engine, of medians over rounds."""
    laid_out = Table("engine", "tokens/s", "ms a token", "ms to the first", f"ms for {width} positions",
                     "own memory, MB", "prompts answered as by transformers in float32")
    answers = _answers(found["engines"].get(REFERENCE, {}), found["prompt_ids"])
    for name, engine in found["engines"].items():
        if "failed" in engine:
            laid_out.add_row(name, engine["failed"])
            continue
        token, first, forward = (1e3 * statistics.median(turn["took"][measure] for turn in engine["rounds"])
                                 for measure in MEASURES)
        own = _answers(engine, found["prompt_ids"])
        num_same = sum(one == other for one, other in zip(own, answers, strict=False))
        same = "" if None in own or not answers else f"{num_same} of {len(own)}"
        laid_out.add_row(name, f"{1e3 / token:.1f}", f"{token:.2f}", f"{first:.1f}", f"{forward:.1f}",
                         f"{_peak(engine) / 1e6:.0f}", same)
    return laid_out


def ratios_table(found: Json, width: int) -> Table:
    """A line for each pair, theirs over ours."""
    laid_out = Table("ours", "theirs", "a token", "to the first", f"{width} positions", title="theirs / ours",
                     title_justify="left")
    held: dict[tuple[str, str], dict[str, Ratio]] = {}
    for entry in found["ratios"]:
        ratio = Ratio(**entry)
        held.setdefault((ratio.ours, ratio.theirs), {})[ratio.measure] = ratio
    for (ours, theirs), by_measure in held.items():
        laid_out.add_row(ours, theirs, *(str(by_measure[measure]) for measure in MEASURES))
    return laid_out


def _answers(engine: Json, prompts: Sequence[list[int]]) -> list[list[int] | None]:
    """The tokens after each prompt; those of the first rounds, in which each prompt had its turn."""
    return [turn["tokens"] for turn in engine.get("rounds", [])[: len(prompts)]]


def _peak(engine: Json) -> int:
    return max(engine["start_peak_bytes"], *(turn["own_bytes"] for turn in engine["rounds"]))
