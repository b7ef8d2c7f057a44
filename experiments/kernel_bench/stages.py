"""The stages of the kernel benchmark: ahead-of-time compilation, verification against float64 and, on a GPU, timing
against peers; see execution.py for another. Each stage appends its rows to a file of JSON lines as they come."""

import hashlib
import inspect
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton

from ...kernels.case import Case
from ..harness.devices import device_name
from ..harness.json_lines import JsonLines
from ..harness.locks import machine_alone, machine_shared
from ..harness.progress import bar, console
from ..harness.provenance import machine, provenance_on
from ..harness.records import Json
from ..harness.roofline import floor
from ..harness.worker import ENOUGH_SECONDS, LATE_SECONDS, CallFailed, CutShort, Pool, Worker, running_environment
from .baseline import program_name
from .competitors import OURS, peers
from .compile import compiled, compiler_environment, programs, versions
from .limits import MAIN_TARGET
from .timing import ceilings, timed
from .verify import TOLERANCES, verdict

_KERNELS = Path(__file__).resolve().parents[2] / "kernels"
_LAST_RANK = 1000  # the rank of torch.compile, which takes longest


@dataclass(frozen=True)
class Item:
    """One case of a kernel with one input type; `along` is the shape that it varies, the axis, and its size
    along it."""

    kernel: str
    shape: str
    dtype: str
    case: Case
    along: tuple[str, str, int] | None = None

    @property
    def row(self) -> Json:
        """The item's identity in a record, with the hash of its kernel's file."""
        along = {} if self.along is None else {"along": self.along}
        return {"kernel": self.kernel, "shape": self.shape, "dtype": self.dtype, "case": repr(self.case), **along,
                "source_hash": _file_hash(inspect.getsourcefile(type(self.case)) or "")}


@cache
def _file_hash(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


@cache
def kernels_hash() -> str:
    """Of the kernels' code and their tables of tiles."""
    paths = *sorted(_KERNELS.glob("*.py")), *sorted(_KERNELS.glob("tiles/*.json"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def floors(items: Sequence[Item], file: JsonLines) -> list[Json]:
    """The minimal work of each item, its roofline bound, and its peers."""
    rows = []
    for item in items:
        cost = item.case.cost(getattr(torch, item.dtype))
        least = floor(cost, item.dtype)
        rows.append(item.row | {"num_bytes": cost.num_bytes, "num_flops": cost.num_flops, "bound": least.bound,
                                "floor_us": least.microseconds, "provenance": provenance_on("none"),
                                "peers": {peer.name: peer.is_installed for peer in peers(item.case)}})
    file.replace(rows)
    return rows


@contextmanager
def compilers(site: str | None, num_processes: int) -> Iterator[Pool]:
    """Processes that compile with the Triton in the folder `site`, or with the installed one."""
    with tempfile.TemporaryDirectory(prefix="quicksilver-triton-") as folder, \
            Pool(compiler_environment(site, Path(folder)), num_processes) as pool:
        yield pool


@dataclass
class Compiled:
    """The result of a compile stage: a record per kernel and program; every program that exists now, compiled or not;
    those that every run compiles, (Triton, target, program), and that must have a baseline; the number of shipped
    configurations; failures; and whether the stage is complete."""

    records: list[Json] = field(default_factory=list)
    existing: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    guarded: set[tuple[str, str, str]] = field(default_factory=set)
    num_configurations: int = 0
    failures: list[str] = field(default_factory=list)
    is_whole: bool = False


@dataclass(frozen=True)
class CompileStage:
    """Compiles with this Triton and those in the folders `other_tritons`: for the main target every program; for the
    other `targets` the first program of each Triton function, with this Triton only. With `full`, every program."""

    targets: Sequence[str]
    other_tritons: Sequence[str]
    full: bool
    num_processes: int

    def run(self, items: Sequence[Item], file: JsonLines, found: Compiled) -> None:
        """Compile the programs that the items launch, adding results to `found` as they come."""
        file.replace([])
        with machine_shared():
            for site in (None, *self.other_tritons):
                with compilers(site, self.num_processes) as pool:
                    self._with_one_triton(site, items, pool, file, found)
        found.is_whole = True

    def _with_one_triton(self, site: str | None, items: Sequence[Item], pool: Pool, file: JsonLines,
                         found: Compiled) -> None:
        (_, version), = pool.ask_all(versions, [()])
        if isinstance(version, CallFailed):
            found.failures.append(f"Triton of {site or 'this environment'}: {version}")
            return
        wanted: dict[tuple[str, str], list[tuple[Item, Json]]] = {}
        for item, target, program in self._existing(items, version["triton"], pool, found):
            wanted.setdefault((target, program["key"]), []).append((item, program))
        if site is None:
            found.num_configurations = sum(target == MAIN_TARGET for target, _ in wanted)
        representatives = _representatives(wanted, is_other=site is not None)
        found.guarded |= {(version["triton"], *at) for at in representatives}
        chosen = list(wanted) if self.full else representatives
        calls = [(wanted[at][0][0].case, wanted[at][0][0].dtype, *at) for at in chosen]
        with bar(f"compile with Triton {version['triton']}", len(calls)) as progress:
            for done, (place, resources) in enumerate(pool.ask_all(compiled, calls), 1):
                target, _ = chosen[place]
                for record in _by_kernel(wanted[chosen[place]], target):
                    if isinstance(resources, CallFailed):
                        found.failures.append(f"{record['kernel']}, Triton {version['triton']}, {target}: "
                                              f"{record['label']}: {resources}")
                        continue
                    row = record | {"target": target, **version} | resources | {"provenance": provenance_on("none")}
                    file.append(row)
                    found.records.append(row)
                progress.update(done, target)

    def _existing(self, items: Sequence[Item], version: str, pool: Pool, found: Compiled
                  ) -> Iterator[tuple[Item, str, Json]]:
        """Every program of every item for every target, in the order of the items."""
        calls = [(item, target) for target in self.targets for item in items]
        answers = dict(pool.ask_all(programs, [(item.case, item.dtype, target) for item, target in calls]))
        refused: dict[tuple[str, str], list[str]] = {}
        for place, (item, target) in enumerate(calls):
            names = found.existing.setdefault((item.kernel, version), set())
            if isinstance(answers[place], CallFailed):
                refused.setdefault((item.kernel, str(answers[place])), []).append(f"{item.shape} for {target}")
                continue
            for program in answers[place]:
                names.add(program_name(target, program["key"]))
                yield item, target, program
        found.failures += [f"{kernel}, Triton {version}: {len(shapes)} launches are refused, as {shapes[0]}: {error}"
                           for (kernel, error), shapes in refused.items()]


def _representatives(wanted: dict[tuple[str, str], list[tuple[Item, Json]]], *, is_other: bool
                     ) -> list[tuple[str, str]]:
    """(target, program) of every program for the main target, and of the first of each function for the others."""
    chosen, seen = [], set()
    for (target, key), users in wanted.items():
        identity = users[0][1]["identity"]
        function = (target, identity["module"], identity["function"])
        if target == MAIN_TARGET or (not is_other and function not in seen):
            chosen.append((target, key))
        seen.add(function)
    return chosen


def _by_kernel(users: Sequence[tuple[Item, Json]], target: str) -> list[Json]:
    """One record per kernel that uses a program, with the shapes that do."""
    records: dict[str, Json] = {}
    for item, program in users:
        record = records.setdefault(item.kernel, program | {"kernel": item.kernel, "shapes": [], "needs_hgmma": []})
        shape = f"{item.shape}, {item.dtype}"
        record["shapes"].append(shape)
        record["needs_wide_loads"] |= program["needs_wide_loads"]
        if target == MAIN_TARGET and item.case.needs_hgmma and getattr(torch, item.dtype).itemsize == 2:
            record["needs_hgmma"].append(shape)
    return list(records.values())


def verdicts(items: Sequence[Item], device: str, num_processes: int, file: JsonLines) -> Iterator[Json]:
    """Verify each item against its reference in float64, interpreted unless `device` is a GPU; rows as they come."""
    file.replace([])
    limit = ENOUGH_SECONDS if device == "cuda" else None  # the interpreter may take long
    with machine_shared(), Pool(running_environment(device), num_processes) as pool, \
            bar("verdicts", len(items)) as progress:
        calls = [(item.case, item.dtype, device) for item in items]
        for done, (place, answer) in enumerate(pool.ask_all(verdict, calls, limit), 1):
            row = judged(items[place], answer, provenance=provenance_on(device_name(device)))
            file.append(row)
            yield row
            progress.update(done, items[place].kernel)


def judged(item: Item, answer: Json | CallFailed, **about: Any) -> Json:
    """The row of a verdict, or of its failure."""
    if isinstance(answer, CallFailed):
        answer = {"failed": str(answer), "passed": False, "error": None, "ran": "failed", "kernels": {},
                  "tolerance": TOLERANCES[item.dtype], "integers_differ": 0}
    return item.row | answer | about


@dataclass(frozen=True)
class TimingStage:
    """Times items and their peers within a budget of `seconds`: the card's measured peaks, then every kernel, then the
    peers by rank, cycling through the shapes of each kernel. Rows in the file for this code on this card are kept, so
    that the same command resumes. `is_host`: a CPU is timed, with the peers that are for one."""

    seconds: float
    device: str = "cuda"
    is_host: bool = False

    def run(self, items: Sequence[Item], file: JsonLines, timer: Any = timed, measure_ceilings: Any = ceilings) -> int:
        """Append the missing rows, and return how many the time budget left out. `timer` and `measure_ceilings` run in
        the GPU's process."""
        ends = time.monotonic() + self.seconds
        name = device_name(self.device)
        missing, num_cut = self.missing(items, file), 0
        with machine_alone(), Worker(running_environment(self.device)) as worker, bar("time", len(missing)) as progress:
            for count, (contender, item) in enumerate(missing):
                left = ends - time.monotonic()
                if left <= 0:
                    return len(missing) - count + num_cut
                row = _named(contender, item, name) | {"provenance": provenance_on(name)}
                progress.update(count, f"{row.get('kernel', '')} {contender}")
                try:
                    function, about = (measure_ceilings, ()) if item is None else (
                        timer, (item.case, item.dtype, contender))
                    row |= worker.ask(function, *about, self.device, seconds=left + LATE_SECONDS)
                except CutShort as error:
                    console.print(f"cut: {row.get('kernel', '')} {row.get('shape', '')} {contender}: {error}",
                                  markup=False)
                    num_cut += 1
                    continue
                except CallFailed as error:
                    row["failed"] = str(error)
                if "no_graph" in row or "failed" in row:
                    worker.end()  # a fault or a broken capture may have corrupted the GPU's context
                file.append(row)
        return num_cut

    def missing(self, items: Sequence[Item], file: JsonLines) -> "list[tuple[str, Item | None]]":
        """(implementation, item) in timing order, for each row that the file lacks or has as failed; item None is the
        card's measured peaks. Peers that are not installed are left out."""
        name = device_name(self.device)
        done = {row["key"] for row in file.rows() if "failed" not in row and "skipped" not in row}
        return [(contender, item) for contender, item in [("ceilings", None), *self._tasks(items)]
                if _named(contender, item, name)["key"] not in done]

    def current(self, items: Sequence[Item], file: JsonLines) -> list[Json]:
        """The file's rows of these items and of the measured peaks, by this code on this machine."""
        name = device_name(self.device)
        keys = {_named(contender, item, name)["key"] for contender, item in [("ceilings", None), *self._tasks(items)]}
        return [row for row in file.rows() if row["key"] in keys]

    def _tasks(self, items: Sequence[Item]) -> list[tuple[str, Item]]:
        """(implementation, item) of what is installed, in timing order."""
        ranked = []
        place_of: dict[str, int] = {}
        for item in items:
            place = place_of[item.kernel] = place_of.get(item.kernel, -1) + 1
            *first, last = [(peer.name, peer.is_installed and (peer.on_cpu or not self.is_host))
                            for peer in peers(item.case)]
            entries = [(0, OURS, True), *((rank, *peer) for rank, peer in enumerate(first, 1)), (_LAST_RANK, *last)]
            ranked += [(rank, place, (name, item)) for rank, name, is_installed in entries if is_installed]
        return [task for _, _, task in sorted(ranked, key=lambda entry: entry[:2])]


def _named(contender: str, item: Item | None, device: str) -> Json:
    """A row of times without the times."""
    row = {"contender": contender, **(item.row if item else {})}
    return row | {"key": _key(row, device)}


def _key(row: Json, device: str) -> str:
    """The key of a measurement: what is timed, the code, the card or the CPU with its threads, and the versions."""
    processor = () if device != "cpu" else (
        machine()["cpu"], torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
    parts = [row["contender"], row.get("kernel"), row.get("shape"), row.get("dtype"), row.get("case"), device,
             *processor, kernels_hash(), torch.__version__, triton.__version__]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
