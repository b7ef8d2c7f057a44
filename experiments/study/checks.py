"""Shared by experiments over tasks, seeds and settings: input checks, measuring the points without a record, and the
final message."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ...kernels.batch_invariance import batch_invariant
from ...kernels.batch_invariance import check_device as check_device_invariance
from ...kernels.checks import check_instance, check_integer
from ...kernels.dispatch import Implementation, using
from ..harness.devices import check_device
from ..harness.latest_link import link_latest
from ..harness.progress import bar, console
from ..harness.records import Json
from ..training.recipe import LARGEST_SEED
from .runner import Runner
from .setup import TaskSetup

CAPTURES = ("auto", "none", "graph", "compile")

_Point = TypeVar("_Point")


def check_machine(device: str, kernels: str, threads: int, models_at_once: int = 1) -> None:
    """ValueError unless this machine has the device and can run the named implementation of the kernels, and the counts
    are at least 1."""
    check_device(device)
    with using(Implementation.named(kernels)):
        pass  # raises if it cannot run here
    check_integer("threads", threads)
    check_integer("models_at_once", models_at_once)


def check_invariance(enabled: bool, device: str) -> None:
    """ValueError if `batch_invariant` is enabled and the device does not support it."""
    with batch_invariant(enabled):
        check_device_invariance(device)


def capture_field(settings: Any) -> None:
    """Make the field `capture` of frozen settings what is to be done: auto becomes graph, which is quick to capture on
    any device. ValueError unless it is auto, none, graph or compile, or if the device does not support it."""
    capture, device = settings.capture, settings.device
    if capture not in CAPTURES:
        raise ValueError(f"capture={capture!r}: must be one of {', '.join(CAPTURES)}")
    if capture == "compile" and device != "cpu":
        raise ValueError(f"capture=compile with device={device!r}: must be auto, none or graph there")
    if capture == "auto":
        object.__setattr__(settings, "capture", "graph")


def check_tasks(tasks: Mapping[str, TaskSetup], seeds: Sequence[int]) -> None:
    """ValueError unless there is at least one task and one seed, and the seeds are distinct."""
    for name, setup in tasks.items():
        check_instance(f"task.{name}", setup, TaskSetup)
    if not tasks or not seeds:
        raise ValueError(f"tasks={list(tasks)}, seeds={list(seeds)}: needs at least one of each")
    for seed in seeds:
        check_integer("seeds", seed, at_least=0, at_most=LARGEST_SEED)
    check_different("seeds", seeds)


def check_counts(name: str, values: Sequence[int]) -> None:
    """ValueError unless `values` are one or more distinct integers of at least 1."""
    if not values:
        raise ValueError(f"{name}=[]: needs at least one")
    for value in values:
        check_integer(name, value)
    check_different(name, values)


def check_batches(batch_sizes: Sequence[int], num_items: Sequence[int]) -> None:
    """ValueError unless the batch sizes are distinct and each has a number of items."""
    check_counts("batch_sizes", batch_sizes)
    if len(batch_sizes) != len(num_items):
        raise ValueError(f"batch_sizes={list(batch_sizes)}, num_items={list(num_items)}: must be as many of one as of "
                         "the other")
    for value in num_items:
        check_integer("num_items", value)


def check_different(name: str, values: Sequence[object]) -> None:
    """ValueError if a value occurs twice."""
    if len(set(values)) < len(values):
        raise ValueError(f"{name}={list(values)}: must all be different")


def measure_missing(runner: Runner, points: Sequence[_Point], title: Callable[[_Point], str],
              measure: Callable[[_Point, Runner], Json]) -> list[Json]:
    """The records of the points, in order; measures those that are missing, with a progress bar."""
    records = []
    with bar("measure", len(points)) as shown:
        for number, point in enumerate(points):
            shown.update(number, title(point))
            records.append(runner.record(point, lambda point=point: measure(point, runner)))
    return records


def finish(report: Path, records: Sequence[Json]) -> int:
    """Print the report's path and point `latest` to its folder. Returns the number of failed records."""
    link_latest(report.parent)
    console.print(f"report: {report}", markup=False)
    return sum("failed" in record["result"] for record in records)
