"""The report: figures, tables, all settings, the machine and the findings, in one self-contained HTML file.

Everything is computed from records; nothing is measured here. Every study whose folder has a module `section` adds a
section if there are records of its kinds.
"""

import base64
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, FunctionLoader

from ...kernels.atomic_file import atomic_write
from ..harness.progress import console
from ..harness.records import Json, key_of, read_record
from ..study.conditions import Conditions, by_conditions, conditions_of
from ..study.rows import commit_of, family_of, sources
from .balance_figure import balance, is_mixture
from .learning_curves import learning_curves
from .section import Section, kinds_of_records, section_modules
from .training_rows import TrainingRow, training_rows


@dataclass(frozen=True)
class _Measured:
    """The measurements under one set of conditions. `name` labels it, and is empty if it is the only one."""

    name: str
    sources: Sequence[str]
    sections: Sequence[Section]

    @property
    def images(self) -> dict[str, bytes]:
        return {name: image for section in self.sections for name, image in section.images.items()}


@dataclass(frozen=True)
class _Trained:
    """The trainings under one set of conditions."""

    name: str
    sources: Sequence[str]
    rows: Sequence[TrainingRow]
    images: Mapping[str, bytes]


def write_report(folder: Path, training: Sequence[Json], measured: Sequence[Json],
                 to_come: Sequence[str] = ()) -> Path:
    """Write report.html and the figures to `folder`, print the tables, and return the report's path. Each set of
    conditions has its own figures, tables and findings. While tasks are `to_come`, the page lists them and nothing is
    printed. ValueError for a measured record of a kind that no section covers."""
    trained_under, measured_under = by_conditions(training), by_conditions(measured)
    trained = [_trained(records, _name(conditions, trained_under)) for conditions, records in trained_under.items()]
    parts = [_Measured(_name(conditions, measured_under), sources(records), _sections(records))
             for conditions, records in measured_under.items()]
    for part in (*parts, *trained):
        for name, image in part.images.items():
            atomic_write(folder / _file_name(name, part.name), image)
    path = folder / "report.html"
    atomic_write(path, _html(parts, trained, training, measured, to_come).encode())
    if not to_come:
        _print(parts)
    return path


def _name(conditions: Conditions, among: Collection[Conditions]) -> str:
    return conditions.label if len(among) > 1 else ""


def _file_name(name: str, conditions: str) -> str:
    """An image's file name, with the conditions if there are several."""
    words = re.sub(r"[^a-z0-9]+", "_", conditions.lower()).strip("_").removeprefix("models_trained_in_")
    return name.replace(".png", f"_{words}.png") if words else name


def _sections(records: Sequence[Json]) -> list[Section]:
    """One section per study with records, those with a summary first."""
    known = kinds_of_records()
    for record in records:
        if record["point"]["kind"] not in known:
            raise ValueError(f"kind={record['point']['kind']!r}: must be one of {', '.join(known)}")
    made = []
    for module in section_modules():
        here = [record for record in records if record["point"]["kind"] in module.KINDS]
        if here:
            made.append(module.section(here, sources(here)))
    return sorted(made, key=lambda section: section.summary is None)


def _trained(records: Sequence[Json], name: str) -> _Trained:
    trained_by = sources(records)
    images = {"learning_curves.png": learning_curves(records, trained_by)}
    mixtures = [record for record in records if is_mixture(record)]
    if mixtures:
        images["balance.png"] = balance(mixtures, trained_by)
    return _Trained(name, trained_by, training_rows(records), images)


def report_name(prefix: str, tasks: Iterable[str], seeds: Sequence[int], experiment: object) -> str:
    """The name of a report's folder, unique to the tasks, the seeds and all other settings."""
    seeds_name = "" if list(seeds) == [0] else "-seeds" + "+".join(map(str, seeds))
    return f"{prefix}{'+'.join(tasks)}{seeds_name}-{key_of(experiment)[:6]}"


def related_records(records: Path, training: Sequence[Json], but: Collection[str]) -> list[Json]:
    """The records in a folder that were measured on the models of these training records, except kinds in `but`. A
    damaged record is reported on the console and left out."""
    models, kinds, found = [record["point"] for record in training], kinds_of_records().keys() - set(but), []
    for path in sorted(records.glob("*.json")):
        try:
            record = read_record(path)
        except ValueError as error:
            console.print(f"left out: {error}", markup=False, style="yellow")
            continue
        if record["point"]["kind"] in kinds and record["point"]["model"] in models:
            found.append(record)
    return found


def _html(parts: Sequence[_Measured], trained: Sequence[_Trained], training: Sequence[Json], measured: Sequence[Json],
          to_come: Sequence[str]) -> str:
    templates = resources.files("quicksilver.experiments")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                              loader=FunctionLoader(lambda name: templates.joinpath(name).read_text()))
    return environment.get_template("report/page.html.j2").render(
        parts=parts, trained=trained, to_come=to_come, encoded=_encoded,
        origins=[*_origins("models trained", training), *_origins("measured", measured)],
        failures=[record for record in (*training, *measured) if "failed" in record["result"]],
        settings=_settings(training, measured))


def _encoded(images: Mapping[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(image).decode() for name, image in images.items()}


def _origins(what: str, records: Sequence[Json]) -> list[Json]:
    """The distinct sources of the records, each with its number of records."""
    found: dict[str, list[Json]] = {}
    for record in records:
        (source,) = sources([record])
        found.setdefault(source, []).append(record)
    return [{"what": what, "num_records": len(members), "conditions": conditions_of(members[0]),
             "machine": members[0]["provenance"]["machine"], "torch": members[0]["provenance"]["versions"]["torch"],
             "commit": commit_of(members[0])} for members in found.values()]


def _settings(training: Sequence[Json], measured: Sequence[Json]) -> list[tuple[str, str]]:
    """All settings of the report: models' points, and measured points by kind and task, one line of JSON per point."""
    found: dict[str, list[Json]] = {}
    for record in training:
        point = record["point"]
        found.setdefault(f"train {point['name']}: {family_of(point)}", []).append(point)
    done = kinds_of_records()
    for record in measured:
        point = record["point"]
        found.setdefault(f"{done[point['kind']]} {point['name']}", []).append(
            {"trained_in": conditions_of(record).precision}
            | {name: value for name, value in point.items() if name not in ("model", "reference")})
    return [(title, "\n".join(map(json.dumps, points))) for title, points in found.items()]


def _print(parts: Sequence[_Measured]) -> None:
    """Print the tables and findings on the console."""
    for part in parts:
        if part.name:
            console.print(part.name, markup=False, style="bold")
        for section in part.sections:
            console.print(section.shown)
        for section in part.sections:
            for sentence in section.findings:
                console.print(f"- {sentence}", markup=False)
