"""The report: figures, one table, every setting, the machine, and what was found, in one self-contained HTML file.

Everything is computed from records; nothing is measured here.
"""

import base64
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment
from rich.table import Table

from ..kernels.atomic_file import atomic_write
from . import figures
from .analysis import Json, Row, equal_quality, is_collapsed, rows, sources
from .findings import findings
from .progress import console


def write_report(folder: Path, training: Sequence[Json], measured: Sequence[Json]) -> Path:
    """Write report.html and the figures to `folder`, print the table, and return the report's path."""
    table = rows(measured)
    origins = sources((*training, *measured))
    images: dict[str, bytes] = {}
    for number, batch_size in enumerate(sorted({row.batch_size for row in table})):
        name = "frontier.png" if number == 0 else f"frontier_batch{batch_size}.png"
        images[name] = figures.frontier(table, origins, batch_size)
    images["learning_curves.png"] = figures.learning_curves(training, origins)
    for name, image in images.items():
        atomic_write(folder / name, image)
    path = folder / "report.html"
    atomic_write(path, _html(table, origins, images, training, measured).encode())
    _print(table)
    return path


def _html(table: Sequence[Row], origins: Sequence[str], images: dict[str, bytes], training: Sequence[Json],
          measured: Sequence[Json]) -> str:
    template = resources.files("quicksilver.experiments").joinpath("report.html.j2").read_text()
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        findings=findings(table), origins=origins, rows=table, comparisons=equal_quality(table),
        images={name: base64.b64encode(image).decode() for name, image in images.items()},
        training=[_training_row(record, training) for record in training if "failed" not in record["result"]],
        failures=[record for record in (*training, *measured) if "failed" in record["result"]],
        settings=_settings(training, measured), is_collapsed=is_collapsed,
        text_names=list(dict.fromkeys(name for row in table for name in row.text)),
        num_seeds=max((len(row.right_by_seed) for row in table), default=0))


def _training_row(record: Json, training: Sequence[Json]) -> Json:
    """A training record for the table. `at_equal_seconds` is its quality on the way, at the last look within the
    seconds that the fastest of its task's models took in all."""
    result, point = record["result"], record["point"]
    rivals = [other["result"]["seconds"] for other in training if other["point"]["name"] == point["name"]
              and other["point"]["seed"] == point["seed"] and "failed" not in other["result"]]
    within = [look["right"] for look in result["curve"] if look["seconds"] <= min(rivals) + 1e-9]
    return result | {"task": point["name"], "seed": point["seed"], "family": figures.family_of(point),
                     "format": point["recipe"]["format"]["kind"], "final": result["curve"][-1]["right"],
                     "at_equal_seconds": within[-1] if within else None}


def _settings(training: Sequence[Json], measured: Sequence[Json]) -> list[tuple[str, str]]:
    """Every setting behind the report: each model's point, and each task's decoders, as JSON."""
    found = [(f"train {record['point']['name']}: {figures.family_of(record['point'])}, seed "
              f"{record['point']['seed']}", record["point"]) for record in training]
    decoders: dict[str, list[Json]] = {}
    for record in measured:
        point = record["point"]
        decoders.setdefault(point["name"], []).append(
            {name: value for name, value in point.items() if name not in ("model", "reference")})
    found += [(f"decode {name}", points) for name, points in decoders.items()]
    return [(title, json.dumps(value, indent=1)) for title, value in found]


def _print(table: Sequence[Row]) -> None:
    """The table and the findings on the terminal."""
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
    for sentence in findings(table):
        console.print(f"- {sentence}", markup=False)
