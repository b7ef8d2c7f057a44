"""What the report says of sparse activation under parallel decoding: figure, tables, sentences."""

from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.table import Table

from .analysis import Json
from .expert_union_figure import expert_union
from .expert_union_rows import MitigationRow, UnionRow, mitigation_rows, union_rows
from .report_section import Section

_DENSE = "dense"
_LEAST_SHARE = 0.05


def section(records: Sequence[Json], sources: Sequence[str]) -> Section:
    """The section of these records of unions and mitigations."""
    unions = union_rows(record for record in records if record["point"]["kind"] == "UnionPoint")
    mitigations = mitigation_rows(records)
    router = next((row.router for row in unions if row.time_ratio is not None and row.router != _DENSE), None)
    images = {} if router is None else {"expert_union.png": expert_union(unions, mitigations, router, sources)}
    return Section("Sparse activation under parallel decoding", "expert_union.html.j2",
                   {"unions": unions, "mitigations": mitigations}, images, list(_findings(unions, mitigations)),
                   _shown(unions, mitigations))


def _findings(unions: Sequence[UnionRow], mitigations: Sequence[MitigationRow]) -> Iterator[str]:
    trained = [row for row in unions if row.share is not None and row.state == 1 and row.batch_size == 1
            and row.family != "autoregressive"]
    for task, router in dict.fromkeys((row.task, row.router) for row in trained):
        here = [row for row in trained if (row.task, row.router) == (task, router)]
        narrow, wide = min(here, key=lambda row: row.width), max(here, key=lambda row: row.width)
        assert narrow.distinct is not None
        assert wide.distinct is not None
        yield (f"{task}, {router}: a step of {narrow.width} touches {narrow.distinct.text(1)} of {narrow.num_experts} "
               f"experts a layer, one of {wide.width} {wide.distinct.text(1)} ({wide.uniform:.1f} if choices were "
               f"uniform) and reads {wide.bytes_ratio.text(1)} times the bytes of a next token.")
    for usual in (row for row in mitigations if row.is_usual):
        rivals = [row for row in mitigations if (row.task, row.cache) == (usual.task, usual.cache)
                  and not row.is_usual and row.is_equal]
        best = max(rivals, key=lambda row: row.bytes_saved.mean, default=None)
        if usual.share < _LEAST_SHARE:
            yield f"{usual.task}, {usual.cache} cache: {100 * usual.share:.1f} % right is too little to lose any."
        elif best is None or best.bytes_saved.mean <= 0:
            yield f"{usual.task}, {usual.cache} cache: nothing tried saves bytes at equal quality."
        else:
            yield (f"{usual.task}, {usual.cache} cache: of what is as good as the usual {100 * usual.share:.1f} % "
                   f"(within {100 * best.tolerance:.1f} points) {best.mitigation} saves most: "
                   f"{best.bytes_saved.percent(0)} % of a step's bytes, {100 * best.share:.1f} % right"
                   f"{_of_an_answer(usual, best)}.")


def _of_an_answer(usual: MitigationRow, best: MitigationRow) -> str:
    if usual.answer_bytes is None or best.answer_bytes is None:
        return ""
    return (f"; an answer reads {best.answer_bytes.text(2)} times what autoregression does, usually "
            f"{usual.answer_bytes.text(2)}")


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
