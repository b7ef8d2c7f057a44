"""The baseline: the resources of each configuration when last accepted. One generated file per kernel and Triton
version; a change that costs registers, spills, tensor cores or wide loads fails until the baseline is updated."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...kernels.atomic_file import atomic_write
from ..harness.records import Json

_KEPT = ("label", "registers", "spill_bytes", "stack_bytes", "shared_bytes", "tensor_core", "wide_loads")
_MORE_REGISTERS = 1.10
# Every program that a kernel has now, by kernel and Triton version, whether compiled in this run or not.
Existing = Mapping[tuple[str, str], Collection[str]]
HOW_TO_UPDATE = ('if that is meant: make kernels ARGS="kernel=NAME experiment.update_baseline=true"; all kernels '
                 "without kernel=NAME")


@dataclass(frozen=True)
class Baseline:
    """The baseline files in `folder`."""

    folder: Path

    def path(self, kernel: str, triton: str) -> Path:
        return self.folder / f"{kernel}-triton{minor_version(triton)}.json"

    def read(self, kernel: str, triton: str) -> dict[str, Json]:
        """The accepted entries by target and program. ValueError names a damaged file."""
        path = self.path(kernel, triton)
        try:
            return json.loads(path.read_text()) if path.exists() else {}
        except ValueError as error:
            raise ValueError(f"{path}: a damaged baseline ({error})") from None

    def update(self, records: Sequence[Json], existing: Existing) -> list[Path]:
        """Accept these records. Old entries stay for programs that exist but were not compiled in this run; entries of
        programs that no longer exist are dropped. Returns the files."""
        written = []
        for (kernel, triton), names in existing.items():
            gone = _gone(self.read(kernel, triton), names)
            kept = {name: entry for name, entry in self.read(kernel, triton).items() if name not in gone}
            for record in of_kernel(records, kernel, triton):
                kept[_name(record)] = {field: record[field] for field in _KEPT}
            path = self.path(kernel, triton)
            atomic_write(path, (json.dumps(kept, indent=1, sort_keys=True) + "\n").encode())
            written.append(path)
        return written

    def regressions(self, records: Sequence[Json], existing: Existing, guarded: Collection[tuple[str, str, str]]
                    ) -> list[str]:
        """Programs worse than accepted, compiled but never accepted though they are `guarded` (Triton, target,
        program), or accepted but no longer existing."""
        found = []
        for (kernel, triton), names in existing.items():
            accepted = self.read(kernel, triton)
            prefix = f"{kernel}, Triton {minor_version(triton)}"
            for record in of_kernel(records, kernel, triton):
                entry = accepted.get(_name(record))
                is_guarded = (triton, record["target"], record["key"]) in guarded
                worse = _worse(record, entry) if entry is not None else ["has no baseline"] if is_guarded else []
                found += [f"{prefix}, {record['target']}: {record['label']} {what}" for what in worse]
            found += [f"{prefix}: {accepted[name]['label']} ({name}) is in the baseline and no longer compiled"
                      for name in _gone(accepted, names)]
        return found


def _gone(accepted: Mapping[str, Json], names: Collection[str]) -> list[str]:
    """The accepted programs that no longer exist, for the targets in `names`."""
    targets = {name.partition(" ")[0] for name in names}
    return sorted(name for name in accepted if name not in names and name.partition(" ")[0] in targets)


def _worse(record: Json, accepted: Json) -> list[str]:
    found = []
    if record["spill_bytes"] > accepted["spill_bytes"]:
        found.append(f"spills {record['spill_bytes']} bytes, {accepted['spill_bytes']} before")
    if record["registers"] > _MORE_REGISTERS * accepted["registers"]:
        found.append(f"takes {record['registers']} registers, {accepted['registers']} before")
    lost = accepted["tensor_core"].keys() - record["tensor_core"].keys()
    if lost:
        found.append(f"lost {', '.join(sorted(lost))}")
    if accepted["wide_loads"] and not record["wide_loads"]:
        found.append(f"lost its 128-bit loads: {', '.join(record['narrow_loads'])}")
    return found


def of_kernel(records: Iterable[Json], kernel: str, triton: str) -> list[Json]:
    """The records of a kernel under a Triton version."""
    return [record for record in records if (record["kernel"], record["triton"]) == (kernel, triton)]


def program_name(target: str, key: str) -> str:
    """A program's name in a baseline."""
    return f"{target} {key}"


def _name(record: Json) -> str:
    return program_name(record["target"], record["key"])


def minor_version(version: str) -> str:
    """3.9 of 3.9.0+git12."""
    match = re.match(r"\d+\.\d+", version)
    if match is None:
        raise ValueError(f"triton={version!r}: must begin with two numbers")
    return match[0]
