"""Runs the missing points of an experiment and records each, failed ones included."""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ...models import Transformer
from ...models.quantization import FORMATS, Quantization
from ..harness.locks import exclusive
from ..harness.progress import console
from ..harness.provenance import provenance
from ..harness.records import Json, RecordStore, key_of
from ..training.recipe import TrainingPoint
from ..training.side_by_side import train_side_by_side
from ..training.trainer import is_trained, load_or_train

_POINT_FAILURES = (RuntimeError, MemoryError, FloatingPointError)


def cast(model: Transformer, device: str, dtype: str) -> Transformer:
    """The model itself, on a device with weights of a dtype, or quantised as a format says (models/quantization.py)."""
    if dtype not in FORMATS:
        return model.to(device, getattr(torch, dtype))
    Quantization(dtype).pack(model)
    return model


class Runner:
    """The records and models of one output folder. A failed point is recorded with its reason and retried by the next
    run; the other points still run. Up to `models_at_once` models train in parallel."""

    def __init__(self, folder: Path, models_at_once: int = 1) -> None:
        provenance()  # read (and cached) now, before the code can be edited during a long run
        self.folder = folder
        self.records = RecordStore(folder / "records")
        self._models_at_once = models_at_once
        self._models: dict[TrainingPoint, Transformer] = {}
        self._cast: dict[tuple[TrainingPoint, str], Transformer] = {}
        self._errors: dict[TrainingPoint, BaseException] = {}

    def train_ahead(self, points: Sequence[TrainingPoint], stop_at: float = math.inf) -> None:
        """Train the missing points in parallel, if that is enabled; `train` then returns their records."""
        missing = [point for point in dict.fromkeys(points) if not is_trained(point, self.folder)]
        if min(self._models_at_once, len(missing)) > 1:
            self._errors |= train_side_by_side(missing, self.folder, self._models_at_once, stop_at)

    def train(self, point: TrainingPoint, stop_at: float = math.inf) -> Json:
        """The point's training record; trains it if missing. TrainingPaused as in `load_or_train`."""
        try:
            if point in self._errors:
                raise self._errors.pop(point)
            self._models[point], record = load_or_train(point, self.folder, stop_at)
        except _POINT_FAILURES as error:
            return self._failed(point, error)
        return record

    def model(self, point: TrainingPoint) -> Transformer:
        """A model that `train` returned the record of. RuntimeError if its training failed."""
        if point not in self._models:
            raise RuntimeError(f"its model {key_of(point)} ({point.name}, seed {point.seed}) failed to train")
        return self._models[point]

    def model_in(self, point: TrainingPoint, device: str, dtype: str) -> Transformer:
        """The model on a device with weights of a dtype. A copy of another dtype than the trained weights' is kept."""
        model = self.model(point)
        if str(model.head.weight.dtype) != f"torch.{dtype}":
            if (point, dtype) not in self._cast:
                self._cast[point, dtype] = cast(copy.deepcopy(model), device, dtype)
            return self._cast[point, dtype]
        return model.to(device)

    def record(self, point: object, measure: Callable[[], Json]) -> Json:
        """The point's record: read if it is intact and holds a result, else measured. If several processes need the
        same point, one measures it."""
        with exclusive(self.folder / "locks" / key_of(point)):
            record = self.records.completed(point)
            if record is not None:
                return record
            try:
                return self.records.write(point, measure(), provenance())
            except _POINT_FAILURES as error:
                return self._failed(point, error)

    def _failed(self, point: object, error: BaseException) -> Json:
        console.print(f"failed: {key_of(point)}: {error}", markup=False, style="red")
        return self.records.write(point, {"failed": f"{type(error).__name__}: {error}"}, provenance())
