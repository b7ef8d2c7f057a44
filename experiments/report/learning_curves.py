"""The learning curves of a task's models."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from ..harness.records import Json
from ..harness.style import LINES, MARKS, OTHER_MARK, own_style, png
from ..study.conditions import refuse_mixed
from ..study.rows import family_of


@own_style()
def learning_curves(training: Sequence[Json], sources: Sequence[str]) -> bytes:
    """A PNG with one panel per task, sorted: the share of right answers against seconds of training. ValueError if
    conditions are mixed."""
    refuse_mixed(training)
    by_task: dict[str, list[Json]] = {}
    for record in sorted(training, key=_task_family_seed):
        if "failed" not in record["result"]:
            by_task.setdefault(record["point"]["name"], []).append(record)
    columns = max(1, min(4, len(by_task)))
    lines = max(1, -(-len(by_task) // columns))
    figure = Figure(figsize=(max(2.9 * columns + 0.5, 4.8), 2.7 * lines + 0.9), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(by_task) :]:
        axes.set_visible(False)
    for axes, (task, records) in zip(grid.flat, by_task.items(), strict=False):
        for record in records:
            family = family_of(record["point"])
            colour, marker = MARKS.get(family, OTHER_MARK)
            curve = record["result"]["curve"]
            has_experts = record["point"]["recipe"]["shape"].get("experts") is not None
            axes.plot([point["seconds"] for point in curve], [100 * point["right"] for point in curve], color=colour,
                      marker=marker, markersize=8 if marker == "*" else 5, linewidth=1.2,
                      linestyle=LINES[has_experts], label=f"{family}, experts" if has_experts else family)
        axes.set_title(task, fontsize=10)
        axes.set_xlabel("seconds of training", fontsize=9)
        axes.set_ylim(-4, 104)
        axes.set_xlim(left=0)
        axes.tick_params(labelsize=8)
        axes.grid(True, linewidth=0.4, alpha=0.5)
    grid[0][0].set_ylabel("right answers, %", fontsize=9)
    return png(figure, sources, legend_columns=2)


def _task_family_seed(record: Json) -> tuple[str, str, int]:
    return record["point"]["name"], family_of(record["point"]), record["point"]["seed"]
