"""From training records to rows: one row a model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..harness.records import Json
from .learning_curves import family_of


@dataclass(frozen=True)
class TrainingRow:
    """One model. Shares of right answers are those of the learning curve's items: at its end, and at the last look
    within the seconds that the fastest model of its task and seed took in all (None where there was none yet)."""

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
    """A row for each record, by task; failed ones are left out."""
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
    """A recipe's experts in words, and how they are kept busy; empty where there are none."""
    experts = recipe["shape"].get("experts")
    if experts is None:
        return ""
    routing = experts["routing"]
    return (f"{routing['top_k']} of {experts['num_experts']} and {experts['shared_width']} shared, "
            f"{routing['scoring']}, {_words(recipe['balancing']['kind'])}")


def _words(name: str) -> str:
    """A class's name as words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
