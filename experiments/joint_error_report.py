"""What the report says of parallel commits: figure, sentences, table."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from .analysis import Json
from .joint_error_figure import joint_error
from .joint_error_rows import Break, JointRow, breaks, joint_rows
from .report_section import Section


def section(records: Sequence[Json], sources: Sequence[str]) -> Section:
    """The section of these records."""
    rows = joint_rows(records)
    images = {"joint_error.png": joint_error(rows, sources)} if rows else {}
    return Section("What parallel commits lose", "joint_error.html.j2", {"rows": rows}, images,
                   list(_findings(breaks(rows))), _shown(rows))


def _findings(found: Sequence[Break]) -> Iterator[str]:
    for each in found:
        most, holds, broken = each.most, each.holds, each.breaks
        points = f"{100 * each.tolerance:.1f} points"
        if each.is_failed:
            yield (f"{most.task}: even {_steps(most)} solve {_percent(most)}, so what committing together loses, "
                   f"{_nats(holds)} at {_steps(holds)}, is not what fails.")
        elif broken is None:
            yield (f"{most.task}: {_steps(holds)} solve{'s' * (holds.steps == 1)} {_percent(holds)}, as {_steps(most)} "
                   f"do within {points}: committing together loses {_nats(holds)}.")
        else:
            alone = "" if broken.wrong_gap is None else f", {broken.wrong_gap:.1f} nats in the wrong answers alone"
            yield (f"{most.task}: quality holds down to {_steps(holds)} ({_percent(holds)}, within {points} of "
                   f"{_steps(most)}), where committing together loses {_nats(holds)}, and breaks at {_steps(broken)} "
                   f"({_percent(broken)}): {_nats(broken)}{alone}.")


def _percent(row: JointRow) -> str:
    return f"{100 * row.share:.1f} %"


def _steps(row: JointRow) -> str:
    return f"{row.steps} step{'s' * (row.steps > 1)}"


def _nats(row: JointRow) -> str:
    gap = row.gap if abs(row.gap) >= 0.005 else 0.0  # not "-0.00"
    return f"{gap:.2f} nats an item (bound {row.bound:.2f})"


def _shown(rows: Sequence[JointRow]) -> Table:
    shown = Table("task", title="parallel commits", title_justify="left", box=None, header_style="bold")
    for column in shown.columns:
        column.no_wrap = True
    for name in ("steps", "tokens a commit", "bound nats", "gap nats", "of right", "of wrong", "right %"):
        shown.add_column(name, justify="right")
    for row in rows:
        shown.add_row(row.task, str(row.steps), f"{row.tokens_per_commit:.1f}", f"{row.bound:.3f}", f"{row.gap:.3f}",
                      *("-" if value is None else f"{value:.2f}" for value in (row.right_gap, row.wrong_gap)),
                      f"{100 * row.share:.1f}")
    return shown
