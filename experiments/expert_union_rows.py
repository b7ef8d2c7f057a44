"""From the records of unions and mitigations to rows, each pooled over seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .analysis import Json
from .figures import family_of
from .intervals import mean_interval, wilson


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, and the half-width of its 95 % interval (None of a single seed)."""

    mean: float
    half_width: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        return cls(*mean_interval(values))

    def text(self, digits: int) -> str:
        return f"{self.mean:.{digits}f}" + ("" if self.half_width is None else f" ± {self.half_width:.{digits}f}")

    def percent(self, digits: int) -> str:
        return Estimate(100 * self.mean, None if self.half_width is None else 100 * self.half_width).text(digits)


@dataclass(frozen=True)
class UnionRow:
    """A forward of `width` positions of each of `batch_size` rows. `distinct` experts of a layer, mean over layers, and
    what uniform choices would touch: None of a dense model. `bytes_ratio` and `time_ratio` (None where not timed) are
    those of the pair's own next autoregressive token at the same batch size: the tokens that a forward must yield to
    break even."""

    task: str
    family: str
    router: str
    state: float
    width: int
    batch_size: int
    num_seeds: int
    num_experts: int | None
    distinct: Estimate | None
    uniform: float | None
    bytes: float
    bytes_ratio: Estimate
    milliseconds: float | None
    time_ratio: Estimate | None

    @property
    def share(self) -> Estimate | None:
        """Of all experts, those that the forward touches."""
        if self.distinct is None or self.num_experts is None:
            return None
        half = self.distinct.half_width
        return Estimate(self.distinct.mean / self.num_experts, None if half is None else half / self.num_experts)


def union_rows(records: Iterable[Json]) -> list[UnionRow]:
    """A row for each setting, sorted by task, router, state, family, batch size and width; failed points are left
    out."""
    cells: dict[tuple, dict[int, tuple[Json, Json]]] = {}
    for record in records:
        if "failed" in record["result"]:
            continue
        point = record["point"]
        for cell in record["result"]["cells"]:
            key = (point["name"], point["router"], point["state"], family_of(point["model"]), cell["batch_size"],
                   cell["width"])
            cells.setdefault(key, {})[point["model"]["seed"]] = (point, cell)
    made = [_union_row(key, by_seed, cells.get((*key[:3], "autoregressive", key[4], 1), {}))
            for key, by_seed in sorted(cells.items())]
    return [row for row in made if row is not None]


def _union_row(key: tuple, by_seed: dict[int, tuple[Json, Json]], references: dict[int, tuple[Json, Json]]
               ) -> UnionRow | None:
    seeds = sorted(by_seed.keys() & references.keys())
    if not seeds:
        return None
    here = [by_seed[seed][1] for seed in seeds]
    beside = [references[seed][1] for seed in seeds]
    experts = by_seed[seeds[0]][0]["model"]["recipe"]["shape"]["experts"]
    task, router, state, family, batch_size, width = key
    is_timed = all("seconds" in cell for cell in here)
    return UnionRow(
        task, family, router, state, width, batch_size, len(seeds),
        None if experts is None else experts["num_experts"],
        None if experts is None else Estimate.of([sum(cell["distinct"]) / len(cell["distinct"]) for cell in here]),
        None if experts is None else here[0]["uniform"], sum(cell["bytes"] for cell in here) / len(here),
        Estimate.of([cell["bytes"] / other["bytes"] for cell, other in zip(here, beside, strict=True)]),
        1e3 * sum(cell["seconds"] for cell in here) / len(here) if is_timed else None,
        Estimate.of([cell["times_next_token"] for cell in here]) if is_timed else None)


@dataclass(frozen=True)
class MitigationRow:
    """A way to read fewer experts on one task. `bytes_saved` is a share of what a step reads where every position takes
    its own experts in the usual order with the same cache (of which `usual` is the name); `share_lost`, of right
    answers, and `time_ratio` are beside that too."""

    task: str
    cache: str
    mitigation: str
    usual: str
    num_items: int
    share: float
    interval: tuple[float, float]
    share_lost: Estimate
    distinct: Estimate
    positions: float
    tokens_per_step: float
    bytes: float
    bytes_saved: Estimate
    time_ratio: Estimate


def mitigation_rows(records: Iterable[Json]) -> list[MitigationRow]:
    """A row for each, the usual one of its cache first; failed points are left out."""
    found: dict[tuple[str, str], dict[str, dict[int, Json]]] = {}
    for record in records:
        if "failed" not in record["result"]:
            point = record["point"]
            named = found.setdefault((point["name"], point["decoder"]["cache"]["kind"].lower()), {})
            named.setdefault(point["mitigation"], {})[point["model"]["seed"]] = record["result"]
    rows = []
    for (task, cache), named in sorted(found.items()):
        usual = next((name for name in ("own choice", "usual order") if name in named), None)
        if usual is None:
            continue
        for name, by_seed in sorted(named.items(), key=lambda item: (item[0] != usual, item[0])):
            beside = [(result, named[usual][seed]) for seed, result in by_seed.items() if seed in named[usual]]
            if beside:
                rows.append(_mitigation_row((task, cache, name, usual), beside))
    return rows


def _mitigation_row(key: tuple[str, str, str, str], beside: Sequence[tuple[Json, Json]]) -> MitigationRow:
    """`beside`: of each seed, the result and the usual one's."""
    results = [result for result, _ in beside]
    right = "".join(result["right"] for result in results)
    num_right = right.count("1")

    def mean(name: str) -> float:
        return sum(result[name] for result in results) / len(results)

    lost = [(usual["right"].count("1") - result["right"].count("1")) / len(result["right"]) for result, usual in beside]
    saved = [1 - result["bytes"] / usual["bytes"] for result, usual in beside]
    return MitigationRow(*key, len(right), num_right / len(right), wilson(num_right, len(right)), Estimate.of(lost),
                         Estimate.of([result["distinct"] for result in results]), mean("positions"),
                         mean("tokens_per_step"), mean("bytes"), Estimate.of(saved),
                         Estimate.of([result["seconds_ratio"] for result in results]))
