"""The stage of the kernel benchmark in which compiled programs are executed without a GPU, and verified."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..harness.json_lines import JsonLines
from ..harness.locks import machine_shared
from ..harness.progress import bar
from ..harness.provenance import provenance_on
from ..harness.records import Json
from .emulate import emulated
from .stages import Item, compilers, judged


@dataclass(frozen=True)
class ExecutionStage:
    """Verifies items as each Triton (of a folder in `sites`; None: the installed one) compiles them for each target,
    executed by the emulator in so many schedules."""

    targets: Sequence[str]
    sites: Sequence[str | None]
    num_schedules: int
    num_processes: int

    def wanted(self, items: Sequence[Item]) -> list[tuple[Item, str, int]]:
        """Item, target and the seed of the schedule: what each Triton is asked for."""
        return list(itertools.product(items, self.targets, range(self.num_schedules)))

    def num_rows(self, items: Sequence[Item]) -> int:
        return len(self.sites) * len(self.wanted(items))

    def run(self, items: Sequence[Item], file: JsonLines) -> Iterator[Json]:
        """Rows as they come."""
        wanted = self.wanted(items)
        with machine_shared(), bar("execute as compiled", self.num_rows(items)) as progress:
            for number, site in enumerate(self.sites):
                with compilers(site, self.num_processes) as pool:
                    calls = [(item.case, item.dtype, *at) for item, *at in wanted]
                    for done, (place, answer) in enumerate(pool.ask_all(emulated, calls), number * len(wanted) + 1):
                        item, target, seed = wanted[place]
                        row = judged(item, answer, target=target, seed=seed, provenance=provenance_on("none"))
                        file.append(row)
                        yield row
                        progress.update(done, f"{item.kernel} for {target}")
