"""What is recomputed: what a cache is asked and what it answers."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from ...models.adapter import LanguageModel, Plan
from ..canvas import Canvas
from ..windows import Window, Windows


@dataclass(frozen=True)
class Moment:
    """A step about to be taken: its number within the window (from 0) on the host and on the device, the window and the
    canvas, the model's shift, and how many positions of a row were masked at most before the last step."""

    index: int
    step: Tensor
    window: Window
    canvas: Canvas
    shift: int
    most_masked: int


class Cache(Protocol):
    """A subclass states what differs from these defaults."""

    is_exact: ClassVar[bool]
    """Whether a step gives what recomputing everything gives, up to rounding."""
    answers_decided: ClassVar[bool] = True
    """Whether it computes answers at decided positions too, which revision asks for."""
    stores: ClassVar[bool] = True
    """Whether a KVStore is needed."""

    def check_windows(self, windows: Windows) -> None:
        """ValueError with the reason if the cache cannot serve these windows. By default any will do."""

    def check_model(self, model: LanguageModel, windows: Windows) -> None:
        """ValueError with the reason if the cache would be wrong for this model."""
        ...

    def entry_plan(self, window: Window) -> Plan | None:
        """A forward that stores what lies before the window, run once on entering it."""
        return None

    def plan(self, moment: Moment) -> Plan:
        """The forward of one step. Its shapes hang on the moment's integers alone."""
        ...
