"""The report's section on caches: figure, sentences, tables."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from ..harness.records import Json
from ..report.section import Section, listed
from .figure import FEW_POSITIONS, cache_error
from .rows import CacheRow, at_most_steps, cache_rows

KINDS = {"CacheErrorPoint": "cache error"}


def section(records: Sequence[Json], sources: Sequence[str]) -> Section:
    """The section of these records."""
    rows = cache_rows(records)
    finest = at_most_steps(rows)
    in_error = {row.task for row in finest if not row.is_exact}
    drawn = [row for row in finest if row.task in in_error] or finest
    return Section(
        "What caches get wrong", "cache_error/section.html.j2",
        {"rows": rows, "finest": finest, "num_layers": max((len(row.kl) for row in rows), default=0), "small": small,
         "few": FEW_POSITIONS},
        {"cache_error.png": cache_error(drawn, sources)} if rows else {}, list(_findings(finest)), _shown(rows))


def small(value: float) -> str:
    """A number that may be very small; "0" where it is exactly zero."""
    if value == 0:
        return "0"
    return "<1e-7" if abs(value) < 1e-7 else f"{value:.1e}"


def _findings(finest: Sequence[CacheRow]) -> Iterator[str]:
    """Sentences over all tasks, each at its most steps; the table has the details."""
    rows = [row for row in finest if row.cache != "recompute"]
    exact, other = ([row for row in rows if row.is_exact is wanted] for wanted in (True, False))
    if exact:
        alike: dict[str, list[str]] = {}
        for cache in dict.fromkeys(row.cache for row in exact):
            alike.setdefault("; ".join(row.task for row in exact if row.cache == cache), []).append(cache)
        told = listed([f"{listed(caches)} ({tasks})" for tasks, caches in alike.items()])
        yield (f"Exact: {told}; mean KL up to {small(max(row.kl[-1] for row in exact))} nats, every argmax, commit and "
               "answer as recomputed.")
    if other:
        least, most = min(other, key=lambda row: row.kl[-1]), max(other, key=lambda row: row.kl[-1])
        yield (f"Caches are off by {_cost(least)}" + (f" to {_cost(most)}" if least is not most else "")
               + f"; answers that differ from recomputing: {listed([*_differing(other)])}.")


def _differing(rows: Sequence[CacheRow]) -> Iterator[str]:
    """Per task the fewest and the most answers that a cache changes."""
    for task in dict.fromkeys(row.task for row in rows):
        here = [row for row in rows if row.task == task]
        counts = [round(row.answers * row.num_items) for row in here]
        span = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else counts[0]
        yield f"{task} {span} of {here[0].num_items}"


def _cost(row: CacheRow) -> str:
    return (f"{small(row.kl[-1])} nats a position ({row.cache} on {row.task}, {100 * row.positions:.0f} % of the "
            "positions computed)")


def _shown(rows: Sequence[CacheRow]) -> Table:
    shown = Table("task", "cache", title="caches beside recompute", title_justify="left", box=None, header_style="bold")
    for column in shown.columns:
        column.no_wrap = True
    for name in ("steps", "fed %", "KL nats", "flips %", "edits %", "answers %", "right %"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        shares = (row.flips[-1], row.edits, row.answers, row.right)
        shown.add_row(row.task, row.cache, str(row.steps), f"{100 * row.positions:.0f}", small(row.kl[-1]),
                      *(f"{100 * share:.1f}" for share in shares))
    return shown
