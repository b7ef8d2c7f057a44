"""Runs an experiment's missing points, keeps a record of each, and writes the report from the records."""

from collections.abc import Callable, Mapping
from pathlib import Path

from ..models import Transformer
from .frontier import DecodePoint, Frontier
from .locks import exclusive
from .progress import bar, console
from .provenance import provenance
from .records import Json, RecordStore, key_of
from .report import write_report
from .training import TrainingPoint, trained

_POINT_FAILURES = (RuntimeError, MemoryError, FloatingPointError)


def run(experiment: Frontier, folder: Path) -> int:
    """Train and measure what is missing in `folder`, write the report, print the table. Returns the number of points
    that failed; each is recorded with its reason, and tried again by the next run."""
    provenance()  # the state of the code now, not after it was edited during a long run
    records = RecordStore(folder / "records")
    models: dict[TrainingPoint, Transformer] = {}
    training = []
    for point in experiment.training_points():
        training.append(_recorded(records, point, lambda point=point: _train(point, folder, models)))
    points = list(experiment.points())
    measured = []
    with bar("measure", len(points)) as shown:
        for number, point in enumerate(points):
            shown.update(number, f"{point.name} {point.order} batch {point.batch_size}")
            measured.append(_recorded(records, point, lambda point=point: _measure(experiment, point, records, models)))
    report = write_report(folder / report_name(experiment), training, measured)
    console.print(f"report: {report}", markup=False)
    return sum("failed" in record["result"] for record in (*training, *measured))


def report_name(experiment: Frontier) -> str:
    """Where the report of these tasks and seeds lies below the output folder."""
    seeds = "" if list(experiment.seeds) == [0] else "-seeds" + "+".join(map(str, experiment.seeds))
    return "+".join(experiment.tasks) + seeds


def _recorded(records: RecordStore, point: object, make: Callable[[], Json]) -> Json:
    """The record that `make` gives, or one that says why it failed."""
    try:
        return make()
    except _POINT_FAILURES as error:
        console.print(f"failed: {key_of(point)}: {error}", markup=False, style="red")
        return records.write(point, {"failed": f"{type(error).__name__}: {error}"}, provenance())


def _train(point: TrainingPoint, folder: Path, models: dict[TrainingPoint, Transformer]) -> Json:
    models[point], record = trained(point, folder)
    return record


def _measure(experiment: Frontier, point: DecodePoint, records: RecordStore,
             models: Mapping[TrainingPoint, Transformer]) -> Json:
    """The point's record: read where it is whole and holds a result, else measured. Of several processes that want the
    same point one measures it."""
    for needed in (point.model, point.reference):
        if needed not in models:
            raise RuntimeError(f"its model {key_of(needed)} failed to train")
    with exclusive(records.folder / "locks" / key_of(point)):
        record = records.read_whole(point)
        if record is None or "failed" in record["result"]:
            record = records.write(point, experiment.measure(point, models), provenance())
        return record
