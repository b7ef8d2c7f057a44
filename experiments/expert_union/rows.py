"""From the records of unions and mitigations to rows, each pooled over seeds."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..harness.records import Json
from ..study.conditions import refuse_mixed
from ..study.intervals import mean_interval, paired_difference, wilson
from ..study.rows import family_of

_ONE_POINT = 0.01


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, and the half-width of its 95 % interval (None for a single seed)."""

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
    """A forward of `width` positions in each of `batch_size` rows. `distinct` experts per layer, mean over layers, and
    the `uniform` expectation: None for a dense model. `bytes_ratio` and `time_ratio` (None if not timed) are relative
    to one autoregressive token of the same pair at the same batch size: the tokens that a forward must yield to break
    even."""

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
        """The share of all experts that the forward touches."""
        if self.distinct is None or self.num_experts is None:
            return None
        half = self.distinct.half_width
        return Estimate(self.distinct.mean / self.num_experts, None if half is None else half / self.num_experts)


def union_rows(records: Iterable[Json]) -> list[UnionRow]:
    """A row per setting, sorted by task, router, state, family, batch size and width; failed points are left out.
    ValueError if the records mix conditions."""
    succeeded = [record for record in records if "failed" not in record["result"]]
    refuse_mixed(succeeded)
    cells: dict[tuple, dict[int, tuple[Json, Json]]] = {}
    for record in succeeded:
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
    """A way to read fewer experts on one task. `bytes_saved` (a share of a step's bytes), `share_lost` (of right
    answers) and `time_ratio` are relative to the usual decode: token-choice routing in the usual order with the same
    cache. `answer_bytes` are read over all steps of an answer, as a multiple of autoregression's (None if that was not
    measured)."""

    task: str
    cache: str
    mitigation: str
    is_usual: bool
    num_items: int
    share: float
    interval: tuple[float, float]
    share_lost: Estimate
    tolerance: float
    distinct: Estimate
    positions: float
    tokens_per_step: float
    bytes: float
    bytes_saved: Estimate
    answer_bytes: Estimate | None
    time_ratio: Estimate

    @property
    def is_equal(self) -> bool:
        """Whether the loss of right answers is within `tolerance`: one point, or the half-width of the paired
        difference's 95 % interval over the items of all seeds where they are too few to resolve one point."""
        return self.share_lost.mean <= self.tolerance


def mitigation_rows(records: Iterable[Json]) -> list[MitigationRow]:
    """A row per mitigation in these records of unions and mitigations, each cache's usual decode first; failed points
    are left out. ValueError if the records mix conditions."""
    succeeded = [record for record in records if "failed" not in record["result"]]
    refuse_mixed(succeeded)
    found: dict[tuple[str, str], dict[tuple[bool, str], dict[int, Json]]] = {}
    for record in succeeded:
        point = record["point"]
        if point["kind"] == "MitigationPoint":
            is_usual = point["decoder"] == point["usual"] and point["rule"]["kind"] == "OwnChoice"
            named = found.setdefault((point["name"], point["decoder"]["cache"]["kind"].lower()), {})
            named.setdefault((not is_usual, point["mitigation"]), {})[point["model"]["seed"]] = record
    next_tokens = _answers_of_next_tokens(succeeded)
    rows = []
    for (task, cache), named in sorted(found.items()):
        (is_changed, _), usual = min(named.items())
        for (_, name), by_seed in sorted(named.items()) if not is_changed else ():
            seeds = sorted(by_seed.keys() & usual.keys())
            if seeds:
                rows.append(_mitigation_row((task, cache, name, by_seed is usual), [by_seed[seed] for seed in seeds],
                                            [usual[seed]["result"] for seed in seeds], next_tokens))
    return rows


def _answers_of_next_tokens(records: Iterable[Json]) -> dict[tuple, float]:
    """Bytes that an autoregressive model reads for the answers of a batch, by task, experts, seed and batch size."""
    found = {}
    for record in records:
        point = record["point"]
        if point["kind"] == "UnionPoint" and point["state"] == 1 and family_of(point["model"]) == "autoregressive":
            for cell in record["result"]["cells"]:
                if "num_unions" in cell:
                    steps = cell["num_unions"] * cell["batch_size"] / point["num_items"]
                    found[_model_key(point, cell["batch_size"])] = steps * cell["bytes"]
    return found


def _model_key(point: Json, batch_size: int) -> tuple:
    recipe = point["model"]["recipe"]
    return (point["name"], json.dumps([recipe["shape"], recipe["balancing"]], sort_keys=True), point["model"]["seed"],
            batch_size)


def _mitigation_row(key: tuple[str, str, str, bool], records: Sequence[Json], usual: Sequence[Json],
                    next_tokens: Mapping[tuple, float]) -> MitigationRow:
    """`records` and the results of the usual decode, seed by seed."""
    results = [record["result"] for record in records]
    right, theirs = ([mark == "1" for result in side for mark in result["right"]] for side in (results, usual))
    beside = [next_tokens.get(_model_key(record["point"], record["point"]["batch_size"])) for record in records]
    read = [result["num_steps"] * record["point"]["batch_size"] / result["num_items"] * result["bytes"]
            for record, result in zip(records, results, strict=True)]

    def estimate(value: Callable[[Json, Json], float]) -> Estimate:
        return Estimate.of([value(ours, other) for ours, other in zip(results, usual, strict=True)])

    def mean(name: str) -> float:
        return sum(result[name] for result in results) / len(results)

    return MitigationRow(
        *key, len(right), sum(right) / len(right), wilson(sum(right), len(right)),
        estimate(lambda ours, other: (other["right"].count("1") - ours["right"].count("1")) / len(ours["right"])),
        max(_ONE_POINT, paired_difference(right, theirs)[1]), estimate(lambda ours, other: ours["distinct"]),
        mean("positions"), mean("tokens_per_step"), mean("bytes"),
        estimate(lambda ours, other: 1 - ours["bytes"] / other["bytes"]),
        None if None in beside else Estimate.of([ours / other for ours, other in zip(read, beside, strict=True)
                                                 if other is not None]),
        estimate(lambda ours, other: ours["seconds_ratio"]))
