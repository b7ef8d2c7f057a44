"""The report: figures, tables, every setting, the machine, and what was found, in one self-contained HTML file.

Everything is computed from records; nothing is measured here. What other experiments recorded of the same models is a
section each, where there are such records.
"""

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment, FunctionLoader
from rich.table import Table

from ..kernels.atomic_file import atomic_write
from . import cache_error_report, decoders_report, expert_union_report, figures, joint_error_report
from .analysis import Json, Row, equal_quality, is_collapsed, rows, sources
from .balance_figure import balance, is_mixture
from .findings import findings
from .progress import console
from .records import key_of, read_record
from .report_section import Section

_SECTIONS: Mapping[tuple[str, ...], Callable[[Sequence[Json], Sequence[str]], Section]] = {
    ("PresetPoint",): decoders_report.section, ("CacheErrorPoint",): cache_error_report.section,
    ("JointErrorPoint",): joint_error_report.section,
    ("UnionPoint", "MitigationPoint"): expert_union_report.section}
"""What makes a section of the records of these kinds of points."""
_KINDS = tuple(kind for kinds in _SECTIONS for kind in kinds)


def write_report(folder: Path, training: Sequence[Json], measured: Sequence[Json], others: Sequence[Json] = ()) -> Path:
    """Write report.html and the figures to `folder`, print the tables, and return the report's path. `measured` are the
    records of timed decodes, `others` those that sections are made of."""
    table = rows(measured)
    trained_by, measured_by = sources(training), sources((*measured, *others))
    sections = _sections(others)
    images: dict[str, bytes] = {}
    for number, batch_size in enumerate(sorted({row.batch_size for row in table})):
        name = "frontier.png" if number == 0 else f"frontier_batch{batch_size}.png"
        images[name] = figures.frontier(table, measured_by, batch_size)
    if training:
        images["learning_curves.png"] = figures.learning_curves(training, trained_by)
    mixtures = [record for record in training if is_mixture(record)]
    if mixtures:
        images["balance.png"] = balance(mixtures, trained_by)
    for name, image in (*images.items(), *(item for section in sections for item in section.images.items())):
        atomic_write(folder / name, image)
    path = folder / "report.html"
    atomic_write(path, _html(table, (trained_by, measured_by), images, training, measured, others, sections).encode())
    _print(table)
    for section in sections:
        console.print(section.shown)
    for sentence in _all_findings(table, sections):
        console.print(f"- {sentence}", markup=False)
    return path


def _origins(trained_by: Sequence[str], measured_by: Sequence[str]) -> list[str]:
    """Where models and measurements come from; times are compared among the ones or among the others."""
    if not trained_by or not measured_by or trained_by == measured_by:
        return list(trained_by or measured_by)
    return [*(f"models trained: {origin}" for origin in trained_by),
            *(f"measured: {origin}" for origin in measured_by)]


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


def _all_findings(table: Sequence[Row], sections: Sequence[Section]) -> list[str]:
    return [*findings(table), *(sentence for section in sections for sentence in section.findings)]


def _html(table: Sequence[Row], made_by: tuple[Sequence[str], Sequence[str]], images: Mapping[str, bytes],
          training: Sequence[Json], measured: Sequence[Json], others: Sequence[Json],
          sections: Sequence[Section]) -> str:
    """`made_by`: the sources of models and of measurements."""
    templates = resources.files("quicksilver.experiments")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                              loader=FunctionLoader(lambda name: templates.joinpath(name).read_text()))
    return environment.get_template("report.html.j2").render(
        findings=_all_findings(table, sections), origins=_origins(*made_by),
        num_sources=max(map(len, made_by)), rows=table, comparisons=equal_quality(table),
        images=_encoded(images), sections=[(section, _encoded(section.images)) for section in sections],
        training=[_training_row(record, training) for record in training if "failed" not in record["result"]],
        failures=[record for record in (*training, *measured, *others) if "failed" in record["result"]],
        settings=_settings(training, measured, others), is_collapsed=is_collapsed,
        text_names=list(dict.fromkeys(name for row in table for name in row.text)),
        num_seeds=max((len(row.right_by_seed) for row in table), default=0))


def _encoded(images: Mapping[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(image).decode() for name, image in images.items()}


def _training_row(record: Json, training: Sequence[Json]) -> Json:
    """A training record for the table. `at_equal_seconds` is its quality on the way, at the last look within the
    seconds that the fastest of its task's models took in all."""
    result, point = record["result"], record["point"]
    rivals = [other["result"]["seconds"] for other in training if other["point"]["name"] == point["name"]
              and other["point"]["seed"] == point["seed"] and "failed" not in other["result"]]
    within = [look["right"] for look in result["curve"] if look["seconds"] <= min(rivals) + 1e-9]
    return result | {"active_parameters": result.get("active_parameters", result["parameters"]),
                     "experts": _experts(point["recipe"]), "task": point["name"], "seed": point["seed"],
                     "family": figures.family_of(point),
                     "format": point["recipe"]["format"]["kind"], "final": result["curve"][-1]["right"],
                     "at_equal_seconds": within[-1] if within else None}


def _experts(recipe: Json) -> str:
    """A recipe's experts in words, and how they are kept busy; empty where there are none."""
    experts = recipe["shape"].get("experts")
    if experts is None:
        return ""
    routing = experts["routing"]
    return (f"{routing['top_k']} of {experts['num_experts']} and {experts['shared_width']} shared, "
            f"{routing['scoring']}, {recipe['balancing']['kind']}")


def _settings(training: Sequence[Json], measured: Sequence[Json], others: Sequence[Json]) -> list[tuple[str, str]]:
    """Every setting behind the report: each model's point, and each task's decoders by what was done, as JSON."""
    found = [(f"train {record['point']['name']}: {figures.family_of(record['point'])}, seed "
              f"{record['point']['seed']}", record["point"]) for record in training]
    decoders: dict[str, list[Json]] = {}
    verbs = {"CacheErrorPoint": "cache error", "JointErrorPoint": "joint error",
             "UnionPoint": "expert union", "MitigationPoint": "mitigation"}
    for record in (*measured, *others):
        point = record["point"]
        decoders.setdefault(f"{verbs.get(point.get('kind'), 'decode')} {point['name']}", []).append(
            {name: value for name, value in point.items() if name not in ("model", "reference")})
    found += decoders.items()
    return [(title, json.dumps(value, indent=1)) for title, value in found]


def _print(table: Sequence[Row]) -> None:
    """The table on the terminal."""
    for task in dict.fromkeys(row.task for row in table):
        shown = Table("batch", "order", title=task, title_justify="left", box=None, header_style="bold")
        for name in ("steps", "right %", "95 % interval", "tokens/s", "x AR", "forwards", "p50 ms"):
            shown.add_column(name, justify="right")
        here = [row for row in table if row.task == task]
        for name in here[0].text:
            shown.add_column(name.replace("_", " "), justify="right")
        for row in here:
            low, high = row.interval
            collapsed = " (collapsed)" if is_collapsed(row.text) else ""
            shown.add_row(str(row.batch_size), row.order_label + collapsed, str(row.steps or "-"),
                          f"{100 * row.share:.1f}", f"{100 * low:.1f}-{100 * high:.1f}",
                          f"{row.tokens_per_second:,.0f}", f"{row.speed_up:.2f}", f"{row.forwards_per_item:.1f}",
                          f"{1e3 * row.latency_p50:.1f}", *(f"{value:.2f}" for value in row.text.values()),
                          style="bold" if row.family == "autoregressive" else "")
        console.print(shown)
