"""Records of the same setting, grouped over seeds."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..harness.records import Json
from ..report.learning_curves import family_of
from .conditions import refuse_mixed
from .rows import without_seeds


@dataclass(frozen=True)
class Group:
    """The results of one setting, one a seed. `task` names the model's family too where that is not masked diffusion;
    `number` counts from 1 the settings that are named alike."""

    task: str
    name: str
    steps: int
    number: int
    results: list[Json]


def groups_of(records: Iterable[Json], name: str) -> list[Group]:
    """A group for each setting, sorted by task, what the field `name` of its points holds, and steps. Records of one
    group differ in the seed alone; failed points are left out. ValueError if they are of several conditions."""
    succeeded = [record for record in records if "failed" not in record["result"]]
    refuse_mixed(succeeded)
    found: dict[tuple[str, str, int], dict[str, list[Json]]] = {}
    for record in succeeded:
        point = record["point"]
        family = family_of(point["model"])
        task = point["name"] if family == "masked diffusion" else f"{point['name']}, {family}"
        settings = found.setdefault((task, point[name], point["steps"]), {})
        settings.setdefault(without_seeds(point), []).append(record["result"])
    return [Group(*key, number, results) for key, settings in sorted(found.items())
            for number, (_, results) in enumerate(sorted(settings.items()), start=1)]
