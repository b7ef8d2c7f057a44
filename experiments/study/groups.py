"""Records grouped by setting, over seeds."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..harness.records import Json
from .conditions import refuse_mixed
from .rows import family_of, without_seeds


@dataclass(frozen=True)
class Group:
    """The results of one setting, one per seed. `task` includes the model's family unless that is masked diffusion;
    `number` counts settings with the same name from 1."""

    task: str
    name: str
    steps: int
    number: int
    results: list[Json]


def groups_of(records: Iterable[Json], name: str) -> list[Group]:
    """One group per setting, sorted by task, the points' field `name`, and steps. Records of one group differ only in
    the seed; failed points are left out. ValueError if conditions are mixed."""
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
