"""The findings as plain sentences, including the cases that diffusion loses. A sentence summarizes the table of
speed-ups for all tasks with the same outcomes. Every number comes from a row."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from ..report.section import listed
from ..study.rows import Row, is_collapsed, paired
from .speed_ups import FAILS, FASTER, NONE, SLOWER, UNMEASURED, SpeedUps, speed_ups

_ONE_POINT = 0.01


def findings(rows: Sequence[Row]) -> list[str]:
    """The findings on the rows of all tasks, one sentence each."""
    lines = speed_ups(rows)
    return [*_equal_quality(lines), *_best_quality(lines), *_orders(rows), *_free_text(rows)]


def _equal_quality(lines: Sequence[SpeedUps]) -> Iterator[str]:
    alike: dict[tuple[tuple[int, str], ...], list[str]] = {}
    for line in lines:
        alike.setdefault(tuple(line.outcomes.items()), []).append(line.task)
    for outcomes, tasks in sorted(alike.items(), key=lambda item: [outcome != FASTER for _, outcome in item[0]]):
        yield f"{listed(tasks)}: {_pattern(dict(outcomes))}."


def _pattern(outcomes: Mapping[int, str]) -> str:
    sizes = [*outcomes]
    everywhere = f"at batch {listed(sizes)}"
    if len(set(outcomes.values())) == 1:
        return {FASTER: f"diffusion is faster at equal quality {everywhere}",
                SLOWER: f"diffusion loses on speed {everywhere}, as good but slower",
                NONE: f"diffusion loses, no setting is as good {everywhere}",
                FAILS: "autoregression solves under 5 %, too little for a speed-up at equal quality to mean anything",
                UNMEASURED: "no setting of diffusion is measured"}[outcomes[sizes[0]]]
    runs = [(outcome, [*members]) for outcome, members in groupby(sizes, key=lambda size: outcomes[size])]
    told = listed([f"{outcome} at batch {listed(members)}" for outcome, members in runs])
    if runs[0][0] == FASTER and FASTER not in [outcome for outcome, _ in runs[1:]]:
        return (f"diffusion's advantage at equal quality vanishes between batch {runs[0][1][-1]} and "
                f"{runs[1][1][0]} ({told})")
    return f"diffusion is {told}"


def _best_quality(lines: Sequence[SpeedUps]) -> Iterator[str]:
    """Where diffusion's best quality is above the reference's, and whether it is faster or slower there."""
    told: list[str] = []
    for line in lines:
        better = {size: cell.best for size, cell in line.cells.items() if cell.best_is_better and cell.best is not None}
        faster = [size for size, row in better.items() if row.speed_up > 1]
        slower = [size for size in better if size not in faster]
        speed = [f"{word} at batch {listed(sizes)}" for word, sizes in ((FASTER, faster), (SLOWER, slower)) if sizes]
        if speed:
            told.append(f"{line.task} ({', '.join(speed)})")
    if told:
        yield f"Diffusion's best quality is above autoregression's on {listed(told)}."


def _orders(rows: Sequence[Row]) -> Iterator[str]:
    """The effect of the commit order, at each task's largest number of steps and largest batch."""
    matters, alike = [], []
    for task in dict.fromkeys(row.task for row in rows if not row.text):
        of_task = [row for row in rows if row.task == task]
        largest = max(row.batch_size for row in of_task)
        here = {(row.order, row.steps): row for row in reversed(of_task)
                if row.batch_size == largest and row.steps is not None}
        most = max((steps for _, steps in here if steps is not None), default=None)
        if most is None or not {("confident", most), ("confident", 1), ("random", most)} <= here.keys():
            continue
        shown = [here[key] for key in (("confident", most), ("random", most), ("confident", 1))]
        difference, half_width = paired(shown[0], shown[1])
        shares = " / ".join(f"{100 * row.share:.1f}" for row in shown)
        (matters if abs(difference) > max(_ONE_POINT, half_width) else alike).append(
            f"{task} {shares} % in {most} step{'s' * (most > 1)}")
    if matters or alike:
        told = [f"matters on {listed(matters)}"] if matters else []
        told += [f"makes no difference on {listed(alike)}"] if alike else []
        yield (f"The order of commits (most confident first / random / all in one step, at the largest batch) "
               f"{', '.join(told)}.")


def best_texts(rows: Sequence[Row]) -> list[Row]:
    """For each free-text task and family, the setting with most lines that are valid, unique and novel. Collapsed
    settings are left out."""
    honest = [row for row in rows if row.text and not is_collapsed(row.text)]
    return [max((row for row in honest if (row.task, row.family) == key),
                key=lambda row: row.text["valid_unique_novel"])
            for key in dict.fromkeys((row.task, row.family) for row in honest)]


def _free_text(rows: Sequence[Row]) -> Iterator[str]:
    texts = [row for row in rows if row.text]
    tasks = list(dict.fromkeys(row.task for row in texts))
    if tasks:
        yield (f"{listed(tasks)}: free text, whose quality is several numbers, so no single speed-up is quoted; the "
               "table has each family's best setting.")
    told = []
    for task in tasks:
        here = [row for row in texts if row.task == task]
        collapsed = [row for row in here if is_collapsed(row.text)]
        if collapsed:
            worst = max(collapsed, key=lambda row: row.share)
            told.append(f"{len(collapsed)} of {len(here)} settings on {task} ({worst.family}, {worst.label}, batch "
                        f"{worst.batch_size}, prints {100 * worst.share:.1f} % valid lines, of which "
                        f"{100 * worst.text['unique']:.1f} % are distinct)")
    if told:
        yield f"Collapsed, under half of the lines distinct, and not ranked: {listed(told)}."
