"""No value of another type than annotated passes, wherever in a configuration it stands."""

import copy
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Protocol

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from quicksilver.experiments.config.annotations import ConfigTypes
from quicksilver.experiments.config.reads import Place, reads
from quicksilver.experiments.harness.experiment import Experiment

HERE = __name__
VALUES: tuple[Any, ...] = ([], None, 12345, 1.5, "text", {"a": 1})


class Part(Protocol):
    steps: int

    def take(self) -> int: ...


@dataclass(frozen=True)
class Right:
    steps: int

    def take(self) -> int:
        return self.steps


@dataclass(frozen=True)
class Wrong:
    steps: int


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Whole:
    part: Part
    right: Right
    names: Mapping[str, Sequence[float]]
    count: int | None
    kind: Literal["a", "b"]
    colour: Colour
    flag: bool


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name under which this module's classes can be imported."""
    monkeypatch.setitem(sys.modules, "config_types_here", sys.modules[HERE])
    return "config_types_here"


def whole(here: str, **changes: Any) -> Mapping[str, Any]:
    right = {"_target_": f"{here}.Right", "steps": "${steps}"}
    colour = {"_target_": f"{here}.Colour", "_args_": ["red"]}
    experiment = {"_target_": f"{here}.Whole", "part": right, "right": right, "names": {"x": [1, 2.5]}, "count": None,
                  "kind": "a", "colour": colour, "flag": True}
    return {"steps": 3, "experiment": experiment | changes}


def test_what_is_annotated_passes(here: str) -> None:
    ConfigTypes(whole(here)).check(("experiment",), Any)


@pytest.mark.parametrize(("changes", "message"), [
    ({"part": {"_target_": "{here}.Wrong", "steps": 1}}, "experiment.part=Wrong: must be a Part"),
    ({"right": {"_target_": "{here}.Wrong", "steps": 1}}, "experiment.right=Wrong: must be a Right"),
    ({"right": {"_target_": "{here}.Right", "stpes": 1}}, "unknown key 'experiment.right.stpes': must be one of steps"),
    ({"right": {"_target_": "{here}.Nothing"}}, "must name a class or a function"),
    ({"right": 5}, "experiment.right=5: must be a Right, as {_target_: ...}"),
    ({"names": {"x": [1, "y"]}}, "experiment.names.x.1='y': must be a number"),
    ({"names": [1]}, "experiment.names=[1]: must be a dict, each value a list, each entry a number"),
    ({"count": "three"}, "experiment.count='three': must be an integer or null"),
    ({"count": 1.0}, "experiment.count=1.0: must be an integer or null"),
    ({"count": True}, "experiment.count=True: must be an integer or null"),
    ({"kind": "c"}, "experiment.kind='c': must be one of a, b"),
    ({"flag": 1}, "experiment.flag=1: must be true or false"),
    ({"flag": "???"}, "experiment.flag: must be given"),
], ids=str)
def test_another_type_is_refused_by_its_name(here: str, changes: dict[str, Any], message: str) -> None:
    config = whole(here, **{name: {key: item.replace("{here}", here) if isinstance(item, str) else item
                                   for key, item in value.items()} if isinstance(value, dict) else value
                            for name, value in changes.items()})
    with pytest.raises(ValueError, match=re.escape(message)):
        ConfigTypes(config).check(("experiment",), Any)


def test_the_key_that_is_named_is_that_of_the_command_line(here: str) -> None:
    with pytest.raises(ValueError, match="^steps='x': must be an integer$"):
        ConfigTypes({**whole(here), "steps": "x"}).check(("experiment",), Any)


def replaced(config: Any, place: Place, value: Any) -> Any:
    changed = copy.deepcopy(config)
    node = changed
    for key in place[:-1]:
        node = node[int(key) if isinstance(node, list) else key]
    node[int(place[-1]) if isinstance(node, list) else place[-1]] = value
    return changed


@pytest.mark.parametrize("overrides", [["task=sudoku4"], ["experiment=step_bench", "shapes=tiny"]], ids=" ".join)
def test_no_value_of_any_key_ends_in_another_error(overrides: list[str]) -> None:
    with initialize_config_module("quicksilver.conf", version_base="1.3"):
        composed = compose("config", overrides=["threads=2", "models_at_once=1", "device=cpu", "precision=float32",
                                                *overrides])
    config: Any = OmegaConf.to_container(composed, resolve=False)
    ConfigTypes(config).check(("experiment",), Experiment)
    said = []
    for place in reads(config, ("experiment",)):
        for value in VALUES:
            try:
                ConfigTypes(replaced(config, place, value)).check(("experiment",), Experiment)
            except ValueError as error:
                said.append((place, str(error)))
    assert not [(place, line) for place, line in said if not any(key in line for key in place)]
    assert len(said) > 200
