"""What experiments over tasks, seeds and settings have in common: checking what they are told, measuring the points
that are not on record, and what they say at the end."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

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

_Point = TypeVar("_Point")


def check_machine(device: str, kernels: str, threads: int, models_at_once: int = 1) -> None:
    """ValueError unless this machine has the device and can run the implementation of the kernels that is named."""
    check_device(device)
    with using(Implementation.named(kernels)):
        pass  # refused here if it could not run
    check_integer("threads", threads)
    check_integer("models_at_once", models_at_once)


def check_invariance(enabled: bool, device: str) -> None:
    """ValueError where `batch_invariant` is asked for and the device cannot promise it."""
    with batch_invariant(enabled):
        check_device_invariance(device)


def check_tasks(tasks: Mapping[str, TaskSetup], seeds: Sequence[int]) -> None:
    """ValueError unless there are tasks and different seeds."""
    for name, setup in tasks.items():
        check_instance(f"task.{name}", setup, TaskSetup)
    if not tasks or not seeds:
        raise ValueError(f"tasks={list(tasks)}, seeds={list(seeds)}: needs at least one of each")
    for seed in seeds:
        check_integer("seeds", seed, at_least=0, at_most=LARGEST_SEED)
    check_different("seeds", seeds)


def check_counts(name: str, values: Sequence[int]) -> None:
    """ValueError unless `values` are different numbers of at least 1, one of them or more."""
    if not values:
        raise ValueError(f"{name}=[]: needs at least one")
    for value in values:
        check_integer(name, value)
    check_different(name, values)


def check_batches(batch_sizes: Sequence[int], num_items: Sequence[int]) -> None:
    """ValueError unless each of the different batch sizes has its number of items."""
    check_counts("batch_sizes", batch_sizes)
    if len(batch_sizes) != len(num_items):
        raise ValueError(f"batch_sizes={list(batch_sizes)}, num_items={list(num_items)}: must be as many of one as of "
                         "the other")
    for value in num_items:
        check_integer("num_items", value)


def check_different(name: str, values: Sequence[object]) -> None:
    """ValueError if a value is there twice."""
    if len(set(values)) < len(values):
        raise ValueError(f"{name}={list(values)}: must all be different")


def on_record(runner: Runner, points: Sequence[_Point], title: Callable[[_Point], str],
              measure: Callable[[_Point, Runner], Json]) -> list[Json]:
    """The points' records, in their order, with a progress bar; what is missing is measured."""
    records = []
    with bar("measure", len(points)) as shown:
        for number, point in enumerate(points):
            shown.update(number, title(point))
            records.append(runner.record(point, lambda point=point: measure(point, runner)))
    return records


def concluded(report: Path, records: Sequence[Json]) -> int:
    """Say where the report is, and link to it; the number of records that failed."""
    link_latest(report.parent)
    console.print(f"report: {report}", markup=False)
    return sum("failed" in record["result"] for record in records)
