"""The predict experiment: how many times as fast as autoregression a decoder will be, before anything of it is timed.

    python -m quicksilver.experiments experiment=predict        (then the sweep, then the same again: both side by side)

The pairs are those of the sweep in the same folder. What a decode computes is counted; how long this machine takes for
that is predicted from measurements of it (harness/machine.py), none of which decodes these models, some of which decode
random ones:

    speed-up = predicted time of autoregression / predicted time of the decoder,  per item

Predictions are lines of predictions.jsonl; one that is there is not made again. Once the sweep has measured the same
setting, the table shows what came of it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.table import Table

from ..decoders import Decoder, Threshold, Unbounded, presets
from ..kernels.case import Cost
from ..kernels.checks import check_real
from ..models import SeparateHead
from .harness.json_lines import JsonLines
from .harness.locks import machine_alone
from .harness.machine import this_machine
from .harness.progress import console
from .harness.provenance import provenance
from .harness.records import Json, describe, key_of, read_record
from .harness.roofline import Card
from .study.checks import capture_field, check_batches, check_machine, check_tasks
from .study.runner import Runner
from .study.setup import TaskSetup
from .training.evaluator import Evaluator, batches
from .training.recipe import TrainingPoint

FILE = "predictions.jsonl"
_RIGHT_WITHIN = 1.5
# What a prediction and a measurement of the same have in common, and what else the measurement must be.
_SHARED = ("model", "decoder", "reference", "reference_decoder", "batch_size", "threads", "capture")
_AS_PREDICTED = {"device": "cpu", "dtype": "float32", "kernels": "auto", "batch_invariant": False,
                 "head": describe(SeparateHead())}


@dataclass(frozen=True)
class SpeedPrediction:
    """A decoder against autoregression, decoding the first `num_items` test items in batches."""

    name: str
    model: TrainingPoint
    decoder: Decoder
    order: str
    reference: TrainingPoint
    reference_decoder: Decoder
    batch_size: int
    num_items: int
    threads: int
    capture: str


@dataclass(frozen=True)
class Predict:
    """Of every task and seed at every batch size: the decoder that commits what passes `threshold`. `num_items` are
    decoded to count what a decode computes, at each batch size. On a CPU, in float32."""

    tasks: Mapping[str, TaskSetup]
    seeds: Sequence[int]
    threshold: float
    batch_sizes: Sequence[int]
    num_items: Sequence[int]
    threads: int
    capture: str = "none"
    models_at_once: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.device != "cpu":
            raise ValueError(f"device={self.device!r}: predictions are for a CPU, which can be measured here: cpu")
        check_machine(self.device, "auto", self.threads, self.models_at_once)
        capture_field(self)
        check_tasks(self.tasks, self.seeds)
        check_batches(self.batch_sizes, self.num_items)
        check_real("threshold", self.threshold, above=0, at_most=1)

    def points(self) -> Iterator[SpeedPrediction]:
        for seed in self.seeds:
            for name, setup in self.tasks.items():
                diffusion, autoregressive = (TrainingPoint(name, setup.task, recipe, seed)
                                             for recipe in (setup.diffusion, setup.autoregressive))
                (sampler, *_) = setup.samplers.values()
                decoder = Decoder(setup.windows, Unbounded(), sampler, Threshold(self.threshold), setup.cache)
                for batch_size, num_items in zip(self.batch_sizes, self.num_items, strict=True):
                    yield SpeedPrediction(name, diffusion, decoder, f"threshold {self.threshold:g}", autoregressive,
                                          presets.autoregressive(sampler), batch_size, num_items, self.threads,
                                          self.capture)

    def check(self) -> None:
        """ValueError with the reason if the decoder does not fit a task. Trains nothing."""
        for point in self.points():
            point.model.check(point.decoder, SeparateHead())

    def run(self, folder: Path) -> int:
        """Predict what has no prediction yet, and print all beside what has been measured since. Returns the number of
        models that failed to train."""
        runner, file = Runner(folder, self.models_at_once), JsonLines(folder / FILE)
        held = {row["key"]: row for row in file.rows()}
        missing = [point for point in self.points() if key_of(point) not in held]
        models = dict.fromkeys(model for point in missing for model in (point.model, point.reference))
        runner.train_ahead(list(models))
        failed = {model for model in models if "failed" in runner.train(model)["result"]}
        missing = [point for point in missing if not {point.model, point.reference} & failed]
        torch.set_num_threads(self.threads)
        if missing:
            with machine_alone():
                card = this_machine("float32", capture=self.capture)
            for point in missing:
                file.append({"key": key_of(point), "point": describe(point), "result": _predicted(point, runner, card),
                             "provenance": provenance()})
        made = {row["key"]: row for row in file.rows()}
        wanted = [made[key] for key in map(key_of, self.points()) if key in made]
        console.print(_table(wanted, list(_measured(folder))))
        return len(failed)


def _predicted(point: SpeedPrediction, runner: Runner, card: Card) -> Json:
    seconds, reference_seconds = (
        _predicted_seconds(model.evaluator(runner.model(model), decoder, SeparateHead()), model, point, card)
        for model, decoder in ((point.model, point.decoder), (point.reference, point.reference_decoder)))
    return {"card": asdict(card), "seconds": seconds, "reference_seconds": reference_seconds,
            "speed_up": reference_seconds / seconds}


def _predicted_seconds(evaluator: Evaluator, model: TrainingPoint, point: SpeedPrediction, card: Card) -> float:
    """The predicted time of all forwards that the decodes take."""
    requests = evaluator.requests(model.task, model.task.test_problems(point.num_items), model.seed)
    decoded = [evaluator.decode(batch) for batch in batches(requests, point.batch_size)]
    return sum(cost.count * card.step_seconds(model.recipe.shape, cost.num_rows, cost.positions_computed,
                                              Cost(cost.bytes_read, cost.flops), "float32")
               for batch in decoded for cost in batch.accounting.costs(evaluator.model))


def _measured(folder: Path) -> Iterator[Json]:
    """The folder's records of timed decodes of the kind that is predicted."""
    for path in sorted((folder / "records").glob("*.json")):
        try:
            record = read_record(path)
        except ValueError as error:
            console.print(f"left out: {error}", markup=False, style="yellow")
            continue
        is_as_predicted = all(record["point"].get(name, value) == value for name, value in _AS_PREDICTED.items())
        if "speed_up_p20" in record["result"] and is_as_predicted:
            yield record


def _setting(record: Json) -> str:
    return json.dumps([record["point"].get(name, "none") for name in _SHARED], sort_keys=True)


def _table(predictions: Iterable[Json], measured: Iterable[Json]) -> Table:
    speed_ups = {_setting(record): record["result"]["speed_up"] for record in measured}
    shown = Table("task", title=f"speed-up over autoregression; right within a factor of {_RIGHT_WITHIN:g}",
                  title_justify="left", box=None, header_style="bold")
    for name in ("seed", "batch", "predicted", "measured", "right"):
        shown.add_column(name, justify="right")
    for record in predictions:
        point, predicted = record["point"], record["result"]["speed_up"]
        found = speed_ups.get(_setting(record))
        cells = ["not measured", ""]
        if found is not None:
            cells = [f"{found:.2f}", "yes" if max(found / predicted, predicted / found) <= _RIGHT_WITHIN else "no"]
        shown.add_row(point["name"], str(point["model"]["seed"]), str(point["batch_size"]), f"{predicted:.2f}", *cells)
    return shown
