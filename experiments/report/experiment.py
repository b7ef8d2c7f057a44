"""The report experiment: the report once more, from the records in a folder alone; nothing is trained or measured."""

from dataclasses import dataclass
from pathlib import Path

from ..harness.progress import console
from ..harness.records import RecordStore
from .page import recorded_beside, write_report


@dataclass(frozen=True)
class Report:
    """`records` is the folder that holds the records; a damaged one is an error that names it."""

    records: str

    def check(self) -> None:
        """ValueError if the folder holds no record."""
        if not list(Path(self.records).glob("*.json")):
            raise ValueError(f"records={self.records!r}: must be a folder that holds records")

    def run(self, folder: Path) -> int:
        """Write report.html and the figures to `folder`. Returns 0."""
        records = list(RecordStore(Path(self.records)).all())
        training = [record for record in records if record["point"]["kind"] == "TrainingPoint"]
        measured = [record for record in records if record["point"]["kind"] == "DecodePoint"]
        others = recorded_beside(Path(self.records), training)
        console.print(f"report: {write_report(folder, training, measured, others)}", markup=False)
        return 0
