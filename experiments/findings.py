"""What was found, in plain sentences, the cases that diffusion loses included. Every number comes from a row."""

from collections.abc import Iterator, Sequence

from .analysis import EqualQuality, Row, equal_quality, is_collapsed


def findings(rows: Sequence[Row]) -> list[str]:
    """Sentences for each task, in the order of the rows."""
    comparisons = equal_quality(rows)
    sentences = []
    for task in dict.fromkeys(row.task for row in rows):
        here = [row for row in rows if row.task == task]
        if here[0].text:
            sentences += _free_text(task, here)
            continue
        compared = [comparison for comparison in comparisons if comparison.task == task]
        for comparison in compared:
            sentences.append(_equal_quality(comparison, here))
            sentences += _best_quality(comparison, here)
        sentences += _where_it_vanishes(task, compared)
        sentences += _order_matters(task, here)
    return sentences


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _equal_quality(comparison: EqualQuality, rows: Sequence[Row]) -> str:
    reference, fastest = comparison.reference, comparison.fastest
    head = (f"{comparison.task}, batch {comparison.batch_size}: autoregressive decoding solves "
            f"{_percent(reference.share)} at {reference.tokens_per_second:,.0f} answer tokens/s")
    if fastest is None:
        best = max((row for row in rows if row.batch_size == comparison.batch_size and row.family == "diffusion"),
                   key=lambda row: row.share, default=None)
        tail = "" if best is None else f"; diffusion's best setting ({best.label}) solves {_percent(best.share)}"
        if comparison.reference_fails:
            return f"{head}: too little for a speed-up at equal quality to mean anything{tail}."
        return f"{head}. Diffusion loses: no setting comes within {100 * comparison.tolerance:.1f} points{tail}."
    verdict = "faster" if fastest.speed_up > 1 else "slower: diffusion loses on speed"
    factor = fastest.speed_up if fastest.speed_up > 1 else 1 / fastest.speed_up
    return (f"{head}. At equal quality (within {100 * comparison.tolerance:.1f} points) the fastest diffusion setting, "
            f"{fastest.label}, solves {_percent(fastest.share)} and is {factor:.1f} times {verdict}.")


def _best_quality(comparison: EqualQuality, rows: Sequence[Row]) -> Iterator[str]:
    """What diffusion's best quality costs, where it is above the reference's."""
    here = [row for row in rows if row.batch_size == comparison.batch_size and row.family == "diffusion"]
    best = max((row.share for row in here), default=0.0)
    if best <= comparison.reference.share + comparison.tolerance:
        return
    fastest = max((row for row in here if row.share >= best - 0.01), key=lambda row: row.speed_up)
    yield (f"{comparison.task}, batch {comparison.batch_size}: within a point of its best quality, diffusion solves "
           f"{_percent(fastest.share)} ({fastest.label}) at {fastest.speed_up:.1f} times autoregression's speed.")


def _where_it_vanishes(task: str, compared: Sequence[EqualQuality]) -> Iterator[str]:
    ordered = sorted(compared, key=lambda comparison: comparison.batch_size)
    wins = [comparison.fastest is not None and comparison.fastest.speed_up > 1 for comparison in ordered]
    if len(ordered) < 2 or not wins[0]:
        return
    if all(wins):
        yield f"{task}: the advantage is still there at batch {ordered[-1].batch_size}, the largest measured."
    else:
        lost = wins.index(False)
        yield (f"{task}: the advantage at equal quality vanishes between batch {ordered[lost - 1].batch_size} and "
               f"{ordered[lost].batch_size}.")


def _order_matters(task: str, rows: Sequence[Row]) -> Iterator[str]:
    batch_size = max(row.batch_size for row in rows)
    here = {(row.order, row.steps): row for row in rows if row.batch_size == batch_size and row.steps is not None}
    most = max((steps for _, steps in here if steps is not None), default=None)
    if most is None or not {("confident", most), ("confident", 1), ("random", most)} <= here.keys():
        return
    confident, chance, one = here["confident", most], here["random", most], here["confident", 1]
    yield (f"{task}, {most} steps: committing the most confident positions first solves {_percent(confident.share)}, a "
           f"random order {_percent(chance.share)}; all at once solves {_percent(one.share)}.")


def _free_text(task: str, rows: Sequence[Row]) -> Iterator[str]:
    honest = [row for row in rows if not is_collapsed(row.text)]
    for family in dict.fromkeys(row.family for row in rows):
        best = max((row for row in honest if row.family == family), key=lambda row: row.text["valid_unique_novel"],
                   default=None)
        if best is not None:
            measures = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in best.text.items())
            yield (f"{task}: the best {family} setting ({best.label}, batch {best.batch_size}) writes "
                   f"{_percent(best.text['valid_unique_novel'])} lines that are valid, unique and novel, at "
                   f"{best.tokens_per_second:,.0f} tokens/s ({measures}).")
    collapsed = [row for row in rows if is_collapsed(row.text)]
    if collapsed:
        worst = max(collapsed, key=lambda row: row.share)
        yield (f"{task}: {len(collapsed)} of {len(rows)} settings have collapsed (under half of their lines are "
               f"distinct) and are left out: {worst.family}, {worst.label} (batch {worst.batch_size}), prints "
               f"{_percent(worst.share)} valid lines, of which {_percent(worst.text['unique'])} are distinct.")
    yield f"{task} is free text: its quality is several numbers, so no single speed-up is quoted."
