"""The conditions of a measurement. No figure, row or average mixes several."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..harness.records import Json


@dataclass(frozen=True, order=True)
class Conditions:
    """`precision` is that of training (both if the models of a pair differ); `device` is the name of the CPU or GPU
    that did the work, with `threads` threads; `dtype` is that of the weights in decoding, `capture` says whether its
    steps were taken (none), captured and replayed (graph), or also compiled (compile)."""

    precision: str
    device: str
    threads: int
    dtype: str = "float32"
    capture: str = "none"

    @property
    def label(self) -> str:
        return (f"models trained in {self.precision}{self.of_decoding}; {self.device}, {self.threads} "
                f"thread{'s' * (self.threads > 1)}")

    @property
    def of_decoding(self) -> str:
        """What differs from the usual, to be added to the precision."""
        return (("" if self.dtype == "float32" else f", decoded in {self.dtype}")
                + {"none": "", "graph": ", steps replayed", "compile": ", steps compiled"}[self.capture])


def conditions_of(record: Json) -> Conditions:
    """The conditions of a training record, or of a measurement of a trained model."""
    point, origin = record["point"], record["provenance"]
    models = [point[name]["recipe"] for name in ("model", "reference") if name in point]
    if not models:
        if "recipe" not in point:
            raise ValueError(f"a record of {point['kind']} has no conditions: its point must hold the TrainingPoint "
                             "that it is about, as `model`")
        models = [point["recipe"]]
    work = models[0] | point  # a field that the point lacks is that of training
    gpu = origin["machine"].get("gpu") or origin.get("gpu")  # the latter in earlier records
    device = origin["machine"]["cpu"]
    if gpu is not None and work.get("device", "cpu") != "cpu":  # the first records name no device
        device = gpu["name"]
    return Conditions(" beside ".join(dict.fromkeys(recipe["precision"] for recipe in models)), device, work["threads"],
                      work.get("dtype", "float32"), work.get("capture", "none"))


def by_conditions(records: Iterable[Json]) -> dict[Conditions, list[Json]]:
    """The records grouped by conditions, in sorted order. What was not timed is the same however steps are taken, and
    goes with what was timed under conditions that differ in nothing else, where there is one such group."""
    found: dict[Conditions, list[Json]] = {}
    for record in records:
        found.setdefault(conditions_of(record), []).append(record)
    for conditions, members in list(found.items()):
        others = [other for other in found if other != conditions and replace(other, capture="none") == conditions]
        if len(others) == 1 and not any("second" in name for record in members for name in record["result"]):
            found[others[0]] = members + found[others[0]]
            del found[conditions]
    return dict(sorted(found.items()))


def refuse_mixed(records: Iterable[Json]) -> None:
    """ValueError names the conditions if there are several."""
    found = by_conditions(records)
    if len(found) > 1:
        raise ValueError(f"records of {' and of '.join(each.label for each in found)}: must be of one")
