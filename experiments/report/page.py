"""The report: figures, tables, every setting, the machine, and what was found, in one self-contained HTML file.

Everything is computed from records; nothing is measured here. What other experiments recorded of the same models is a
section each, where there are such records.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, FunctionLoader
from rich.table import Table

from ...kernels.atomic_file import atomic_write
from ..cache_error import section as cache_error_report
from ..expert_union import section as expert_union_report
from ..frontier.findings import best_texts, findings
from ..frontier.speed_ups import SpeedUps, speed_ups
from ..harness.progress import console
from ..harness.records import Json, key_of, read_record
from ..joint_error import section as joint_error_report
from ..presets import section as decoders_report
from ..study.conditions import Conditions, by_conditions, conditions_of
from ..study.rows import Row, commit_of, is_collapsed, numbered, rows, sources
from . import learning_curves as figures
from .balance_figure import balance, is_mixture
from .section import Section
from .training_rows import TrainingRow, training_rows

_SECTIONS: Mapping[tuple[str, ...], Callable[[Sequence[Json], Sequence[str]], Section]] = {
    ("PresetPoint",): decoders_report.section, ("CacheErrorPoint",): cache_error_report.section,
    ("JointErrorPoint",): joint_error_report.section,
    ("UnionPoint", "MitigationPoint"): expert_union_report.section}
"""What makes a section of the records of these kinds of points."""
_KINDS = tuple(kind for kinds in _SECTIONS for kind in kinds)


@dataclass(frozen=True)
class _Measured:
    """What was measured under one conditions. `name` tells them from others and is empty where there are none."""

    name: str
    sources: Sequence[str]
    rows: Sequence[Row]
    speed_ups: Sequence[SpeedUps]
    texts: Sequence[Row]
    findings: Sequence[str]
    images: Mapping[str, bytes]
    sections: Sequence[Section]


@dataclass(frozen=True)
class _Trained:
    """What was trained under one conditions."""

    name: str
    sources: Sequence[str]
    rows: Sequence[TrainingRow]
    images: Mapping[str, bytes]


def write_report(folder: Path, training: Sequence[Json], measured: Sequence[Json], others: Sequence[Json] = (),
                 to_come: Sequence[str] = ()) -> Path:
    """Write report.html and the figures to `folder`, print the tables, and return the report's path. `measured` are the
    records of timed decodes, `others` those that sections are made of. Each conditions have rows, figures and sentences
    of their own. While tasks are `to_come`, the page says so and nothing is printed."""
    trained_under, measured_under = by_conditions(training), by_conditions((*measured, *others))
    trained = [_trained(records, _name(conditions, trained_under))
               for conditions, records in trained_under.items()]
    timed, studied = by_conditions(measured), by_conditions(others)
    parts = [_measured(timed.get(conditions, ()), studied.get(conditions, ()), _name(conditions, measured_under))
             for conditions in measured_under]
    for part in (*parts, *trained):
        images = [part.images, *(section.images for section in getattr(part, "sections", ()))]
        for name, image in (item for found in images for item in found.items()):
            atomic_write(folder / _file_name(name, part.name), image)
    path = folder / "report.html"
    atomic_write(path, _html(parts, trained, training, measured, others, to_come).encode())
    if not to_come:
        _print(parts)
    return path


def _name(conditions: Conditions, among: Iterable[Conditions]) -> str:
    return conditions.label if len([*among]) > 1 else ""


def _file_name(name: str, conditions: str) -> str:
    """An image's file name, which tells the conditions where there are several."""
    words = re.sub(r"[^a-z0-9]+", "_", conditions.lower()).strip("_").removeprefix("models_trained_in_")
    return name.replace(".png", f"_{words}.png") if words else name


def _measured(timed: Sequence[Json], studied: Sequence[Json], name: str) -> _Measured:
    table, measured_by, sections = rows(timed), sources((*timed, *studied)), _sections(studied)
    images = {"frontier.png" if number == 0 else f"frontier_batch{batch_size}.png":
              figures.frontier(table, measured_by, batch_size)
              for number, batch_size in enumerate(sorted({row.batch_size for row in table}))}
    found = [*findings(table), *(sentence for section in sections for sentence in section.findings)]
    return _Measured(name, measured_by, table, speed_ups(table), best_texts(table), found, images, sections)


def _trained(records: Sequence[Json], name: str) -> _Trained:
    trained_by = sources(records)
    images = {"learning_curves.png": figures.learning_curves(records, trained_by)}
    mixtures = [record for record in records if is_mixture(record)]
    if mixtures:
        images["balance.png"] = balance(mixtures, trained_by)
    return _Trained(name, trained_by, training_rows(records), images)


def report_name(prefix: str, tasks: Iterable[str], seeds: Sequence[int], experiment: object) -> str:
    """The name of a report's folder: one of its own for the tasks, the seeds and all other settings."""
    seeds_name = "" if list(seeds) == [0] else "-seeds" + "+".join(map(str, seeds))
    return f"{prefix}{'+'.join(tasks)}{seeds_name}-{key_of(experiment)[:6]}"


def recorded_beside(records: Path, training: Sequence[Json]) -> list[Json]:
    """The records in a folder of which sections are made, as far as they are of the models that these training records
    are of. A damaged one is named on the screen and left out."""
    models, found = [record["point"] for record in training], []
    for path in sorted(records.glob("*.json")):
        try:
            record = read_record(path)
        except ValueError as error:
            console.print(f"left out: {error}", markup=False, style="yellow")
            continue
        if record["point"]["kind"] in _KINDS and record["point"]["model"] in models:
            found.append(record)
    return found


def _sections(records: Sequence[Json]) -> list[Section]:
    """A section for each kind of record that is there. ValueError if one is of no known kind."""
    for record in records:
        kind = record["point"]["kind"]
        if kind not in _KINDS:
            raise ValueError(f"kind={kind!r}: must be one of {', '.join(_KINDS)}")
    made = []
    for kinds, make in _SECTIONS.items():
        here = [record for record in records if record["point"]["kind"] in kinds]
        if here:
            made.append(make(here, sources(here)))
    return made


def _html(parts: Sequence[_Measured], trained: Sequence[_Trained], training: Sequence[Json], measured: Sequence[Json],
          others: Sequence[Json], to_come: Sequence[str]) -> str:
    templates = resources.files("quicksilver.experiments")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                              loader=FunctionLoader(lambda name: templates.joinpath(name).read_text()))
    return environment.get_template("report.html.j2").render(
        parts=parts, trained=trained, to_come=to_come, encoded=_encoded, is_collapsed=is_collapsed,
        origins=[*_origins("models trained", training), *_origins("measured", (*measured, *others))],
        failures=[record for record in (*training, *measured, *others) if "failed" in record["result"]],
        settings=_settings(training, measured, others))


def _encoded(images: Mapping[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(image).decode() for name, image in images.items()}


def _origins(what: str, records: Sequence[Json]) -> list[Json]:
    """Where records come from, each source with the number of records that do."""
    found: dict[str, list[Json]] = {}
    for record in records:
        (source,) = sources([record])
        found.setdefault(source, []).append(record)
    return [{"what": what, "num_records": len(members), "conditions": conditions_of(members[0]),
             "machine": members[0]["provenance"]["machine"], "torch": members[0]["provenance"]["versions"]["torch"],
             "commit": commit_of(members[0])} for members in found.values()]


def _settings(training: Sequence[Json], measured: Sequence[Json], others: Sequence[Json]) -> list[tuple[str, str]]:
    """Every setting behind the report: each model's point, and each task's decoders by what was done, a line of JSON a
    point."""
    found: dict[str, list[Json]] = {}
    for record in training:
        point = record["point"]
        found.setdefault(f"train {point['name']}: {figures.family_of(point)}", []).append(point)
    verbs = {"CacheErrorPoint": "cache error", "JointErrorPoint": "joint error",
             "UnionPoint": "expert union", "MitigationPoint": "mitigation"}
    for record in (*measured, *others):
        point = record["point"]
        found.setdefault(f"{verbs.get(point['kind'], 'decode')} {point['name']}", []).append(
            {"trained_in": conditions_of(record).precision}
            | {name: value for name, value in point.items() if name not in ("model", "reference")})
    return [(title, "\n".join(map(json.dumps, points))) for title, points in found.items()]


def _print(parts: Sequence[_Measured]) -> None:
    """Tables and sentences on the terminal."""
    for part in parts:
        if part.name:
            console.print(part.name, markup=False, style="bold")
        for task in dict.fromkeys(row.task for row in part.rows):
            console.print(_table(task, [row for row in part.rows if row.task == task]))
        for section in part.sections:
            console.print(section.shown)
        for sentence in part.findings:
            console.print(f"- {sentence}", markup=False)


def _table(task: str, rows: Sequence[Row]) -> Table:
    shown = Table("batch", "order", title=task, title_justify="left", box=None, header_style="bold")
    for name in ("steps", "right %", "95 % interval", "tokens/s", "x AR", "forwards", "p50 ms"):
        shown.add_column(name, justify="right")
    for name in rows[0].text:
        shown.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        low, high = row.interval
        collapsed = " (collapsed)" if is_collapsed(row.text) else ""
        shown.add_row(str(row.batch_size), numbered(row.order_label, row.number) + collapsed, str(row.steps or "-"),
                      f"{100 * row.share:.1f}", f"{100 * low:.1f}-{100 * high:.1f}",
                      f"{row.tokens_per_second:,.0f}", f"{row.speed_up:.2f}", f"{row.forwards_per_item:.1f}",
                      f"{1e3 * row.latency_p50:.1f}", *(f"{value:.2f}" for value in row.text.values()),
                      style="bold" if row.family == "autoregressive" else "")
    return shown
