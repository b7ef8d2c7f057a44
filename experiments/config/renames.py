"""Renamed command-line options: the error for an old name gives the new one."""

from collections.abc import Sequence

from ...decoders.presets import PRESETS, knobs
from .usage import PARTS

_OWNED = ("seconds", "full", "update_baseline", "other_tritons")
_CHOICES = {
    "policy=threshold_llada2": "policy=threshold policy.tau=0.95",
    "policy=threshold_sdar": "policy=threshold policy.tau=0.85",
    "schedule=linear_floor": "schedule=floor",
    "schedule=even_floor": "schedule=floor schedule.base._target_=quicksilver.decoders.Even",
    "schedule=free_cosine": "schedule=free schedule.base._target_=quicksilver.decoders.Cosine",
    "schedule=single": "schedule=linear schedule.steps=1",
    "windows=single": "windows=blocks windows.size=1",
    "windows=revised_blocks": "windows=grid_blocks windows.num_revised=1"}


def check_names(arguments: Sequence[str]) -> None:
    """ValueError with the new name for an option given by its old one."""
    chosen = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    preset = chosen.get("decoder", "")
    for key, value in chosen.items():
        group, _, rest = key.partition(".")
        if key in _OWNED:
            raise ValueError(f"{key}={value}: is experiment.{key}={value} now")
        if group in PARTS and preset in PRESETS and group not in knobs(preset):
            raise ValueError(f"{key}={value}: {_instead(preset, rest, value)}")
        if f"{key}={value}" in _CHOICES:
            raise ValueError(f"{key}={value}: is {_CHOICES[f'{key}={value}']} now")


def _instead(preset: str, rest: str, value: str) -> str:
    """The knob of the preset that replaces a part's option, if it has one."""
    last = rest.rpartition(".")[2]
    knob = "block" if last == "size" else last
    if knob in knobs(preset):
        return f"is decoder.{knob}={value} with decoder={preset}"
    own = ", ".join(f"decoder.{name}" for name in knobs(preset)) or "no options"
    return f"decoder={preset} takes {own}; parts are chosen one by one with decoder=parts"
