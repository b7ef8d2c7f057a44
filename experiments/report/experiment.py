"""The report experiment: builds the report from the records in a folder. Nothing is trained or measured."""

from dataclasses import dataclass
from pathlib import Path

from ..harness.progress import console
from ..harness.records import RecordStore
from .page import write_report
from .section import kinds_of_records


@dataclass(frozen=True)
class Report:
    """`records` is the folder of the records. A damaged record is a ValueError that names it."""

    records: str

    def check(self) -> None:
        """ValueError if the folder holds no record."""
        if not list(Path(self.records).glob("*.json")):
            raise ValueError(f"records={self.records!r}: must be a folder that holds records")

    def run(self, folder: Path) -> int:
        """Write report.html and the figures to `folder`. Returns 0."""
        records = list(RecordStore(Path(self.records)).all())
        training = [record for record in records if record["point"]["kind"] == "TrainingPoint"]
        known = kinds_of_records()
        measured = [record for record in records if record["point"]["kind"] in known]
        console.print(f"report: {write_report(folder, training, measured)}", markup=False)
        return 0
