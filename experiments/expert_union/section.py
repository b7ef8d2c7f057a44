"""The report's section on sparse activation under parallel decoding: figure, tables, sentences."""

from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.table import Table

from ..harness.records import Json
from ..report.section import Section, listed
from .figure import expert_union
from .rows import MitigationRow, UnionRow, mitigation_rows, union_rows

_DENSE = "dense"
_LEAST_SHARE = 0.05

KINDS = {"UnionPoint": "expert union", "MitigationPoint": "mitigation"}


def section(records: Sequence[Json], sources: Sequence[str]) -> Section:
    """The section of these records of unions and mitigations."""
    unions = union_rows(record for record in records if record["point"]["kind"] == "UnionPoint")
    mitigations = mitigation_rows(records)
    router = next((row.router for row in unions if row.time_ratio is not None and row.router != _DENSE), None)
    images = {} if router is None else {"expert_union.png": expert_union(unions, mitigations, router, sources)}
    values: Json = {"unions": _by_model(unions), "mitigations": mitigations}
    return Section("Sparse activation under parallel decoding", "expert_union/section.html.j2", values, images,
                   list(_findings(unions, mitigations)), _shown(unions, mitigations))


def _by_model(unions: Sequence[UnionRow]) -> dict[str, list[UnionRow]]:
    """The rows by model name."""
    found: dict[str, list[UnionRow]] = {}
    for row in unions:
        name = f"{row.task}, {row.router}, {row.family}, after {100 * row.state:.0f} % of the updates"
        found.setdefault(name, []).append(row)
    return found


def _findings(unions: Sequence[UnionRow], mitigations: Sequence[MitigationRow]) -> Iterator[str]:
    trained = [row for row in unions if row.share is not None and row.state == 1 and row.batch_size == 1
            and row.family != "autoregressive"]
    for task in dict.fromkeys(row.task for row in trained):
        widest = [max((row for row in trained if (row.task, row.router) == (task, router)), key=lambda row: row.width)
                  for router in dict.fromkeys(row.router for row in trained if row.task == task)]
        touched = listed([f"{row.distinct.text(1)} with {row.router}" for row in widest if row.distinct is not None])
        yield (f"{task}: of {widest[0].num_experts} experts a layer a step of {widest[0].width} touches {touched} "
               f"(uniform choices: {widest[0].uniform:.1f}), and reads "
               f"{listed([row.bytes_ratio.text(1) for row in widest])} times the bytes of a next token.")
    for task in dict.fromkeys(row.task for row in mitigations):
        told = [_saved(usual, [row for row in mitigations if (row.task, row.cache) == (task, usual.cache)])
                for usual in mitigations if usual.is_usual and usual.task == task]
        yield f"{task}: of what is as good as the usual decode, most is saved {'; '.join(told)}."


def _saved(usual: MitigationRow, rows: Sequence[MitigationRow]) -> str:
    """The clause for the mitigation that saves most bytes at equal quality under one cache."""
    best = max((row for row in rows if not row.is_usual and row.is_equal), key=lambda row: row.bytes_saved.mean,
               default=None)
    where = f"with the {usual.cache} cache"
    if usual.share < _LEAST_SHARE:
        return f"{where} by nothing that can be told: {100 * usual.share:.1f} % right is too little to lose any"
    if best is None or best.bytes_saved.mean <= 0:
        return f"{where} by nothing that was tried"
    answer = "" if usual.answer_bytes is None or best.answer_bytes is None else (
        f"; an answer reads {best.answer_bytes.text(2)} times what autoregression does, usually "
        f"{usual.answer_bytes.text(2)}")
    return (f"{where} by '{best.mitigation}', {best.bytes_saved.percent(0)} % of a step's bytes "
            f"({100 * best.share:.1f} % right, usually {100 * usual.share:.1f} %, equal within "
            f"{100 * best.tolerance:.1f} points{answer})")


def _shown(unions: Sequence[UnionRow], mitigations: Sequence[MitigationRow]) -> Group:
    touched = _table("experts a forward touches, trained", "width", "batch", "distinct", "uniform", "bytes x AR",
                     "time x AR")
    for row in unions:
        if row.state == 1:
            touched.add_row(row.task, f"{row.router}, {row.family}", str(row.width), str(row.batch_size),
                            "-" if row.distinct is None else row.distinct.text(1),
                            "-" if row.uniform is None else f"{row.uniform:.1f}", row.bytes_ratio.text(2),
                            "-" if row.time_ratio is None else row.time_ratio.text(2))
    won = _table("what reads fewer", "distinct", "right %", "points lost", "bytes saved %", "an answer x AR",
                 "time x usual")
    for row in mitigations:
        won.add_row(row.task, f"{row.cache} cache, {row.mitigation}", row.distinct.text(1), f"{100 * row.share:.1f}",
                    row.share_lost.percent(1), row.bytes_saved.percent(0),
                    "-" if row.answer_bytes is None else row.answer_bytes.text(2), row.time_ratio.text(2))
    return Group(touched, won)


def _table(title: str, *columns: str) -> Table:
    table = Table("task", "what", title=title, title_justify="left", box=None, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table
