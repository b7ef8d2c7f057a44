"""Table rows from training records: one per model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..harness.records import Json
from ..study.rows import family_of


@dataclass(frozen=True)
class TrainingRow:
    """One model. Shares of right answers are from the learning curve: its last point (`final`), and its last point
    within the training time of the fastest model of the same task and seed (`at_equal_seconds`, None if there is none).
    """

    task: str
    family: str
    seed: int
    format: str
    experts: str
    parameters: int
    active_parameters: int
    updates: int
    examples: int
    tokens: int
    seconds: float
    final: float
    at_equal_seconds: float | None


def training_rows(records: Sequence[Json]) -> list[TrainingRow]:
    """One row per record, sorted by task, family and seed; failed ones are left out."""
    succeeded = [record for record in records if "failed" not in record["result"]]
    return sorted((_row(record, succeeded) for record in succeeded), key=lambda row: (row.task, row.family, row.seed))


def _row(record: Json, succeeded: Sequence[Json]) -> TrainingRow:
    result, point, recipe = record["result"], record["point"], record["point"]["recipe"]
    shortest = min(other["result"]["seconds"] for other in succeeded
                   if (other["point"]["name"], other["point"]["seed"]) == (point["name"], point["seed"]))
    within = [look["right"] for look in result["curve"] if look["seconds"] <= shortest + 1e-9]
    return TrainingRow(
        point["name"], family_of(point), point["seed"], _words(recipe["format"]["kind"]), _experts(recipe),
        result["parameters"], result.get("active_parameters", result["parameters"]), result["updates"],
        result["examples"], result["tokens"], result["seconds"], result["curve"][-1]["right"],
        within[-1] if within else None)


def _experts(recipe: Json) -> str:
    """A recipe's experts, routing and balancing in words; empty for a dense model."""
    experts = recipe["shape"].get("experts")
    if experts is None:
        return ""
    routing = experts["routing"]
    return (f"{routing['top_k']} of {experts['num_experts']} and {experts['shared_width']} shared, "
            f"{routing['scoring']}, {_words(recipe['balancing']['kind'])}")


def _words(name: str) -> str:
    """A class name as lower-case words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
