"""The report's section on parallel commits: figure, sentences, table."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from ..harness.records import Json
from ..report.section import Section, listed
from .figure import joint_error
from .rows import Break, JointRow, breaks, joint_rows

KINDS = {"JointErrorPoint": "joint error"}


def section(records: Sequence[Json], sources: Sequence[str]) -> Section:
    """The section of these records."""
    rows = joint_rows(records)
    broken = breaks(rows)
    images = {"joint_error.png": joint_error(rows, sources)} if rows else {}
    values: Json = {"rows": rows, "breaks": broken}
    return Section("What parallel commits lose", "joint_error/section.html.j2", values, images,
                   list(_findings(broken)), _shown(rows))


def _findings(found: Sequence[Break]) -> Iterator[str]:
    """Sentences over all tasks; the table has the details."""
    failed = [each for each in found if each.is_failed]
    holds = [each for each in found if not each.is_failed]
    if holds:
        yield (f"Quality holds down to {listed([_where(each) for each in holds])}: committing together loses "
               f"{_nats([each.holds for each in holds])} there{_broken(holds)}.")
    if failed:
        tasks = listed([f"{each.most.task} ({100 * each.most.share:.1f} % at {each.most.steps} steps)"
                        for each in failed])
        yield f"What committing together loses is not what fails on {tasks}."


def _where(each: Break) -> str:
    return f"{each.holds.steps} of {each.most.steps} steps on {each.most.task}"


def _broken(holds: Sequence[Break]) -> str:
    broken = [each.breaks for each in holds if each.breaks is not None]
    return f", and {_nats(broken)} at the next fewer steps, where it breaks" if broken else ""


def _nats(rows: Sequence[JointRow]) -> str:
    gaps = sorted(row.gap if abs(row.gap) >= 0.005 else 0.0 for row in rows)  # not "-0.00"
    return (f"{gaps[0]:.2f} nats an item" if gaps[0] == gaps[-1] else
            f"{gaps[0]:.2f} to {gaps[-1]:.2f} nats an item")


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
