"""What is recomputed: the interface of a cache."""

from typing import ClassVar, Protocol

from ...models.adapter import LanguageModel, Plan
from ..step_state import StepState
from ..windows import Window, Windows


class Cache(Protocol):
    """A subclass states what differs from these defaults."""

    is_exact: ClassVar[bool]
    """Whether a step gives what recomputing everything gives, up to rounding."""
    recomputes_committed: ClassVar[bool] = True
    """Whether committed positions of the window are computed again, as revision needs."""
    stores: ClassVar[bool] = True
    """Whether a KVStore is needed."""

    def check_windows(self, windows: Windows) -> None:
        """ValueError with the reason if the cache cannot serve these windows. By default any will do."""

    def check_model(self, model: LanguageModel, windows: Windows) -> None:
        """ValueError with the reason if the cache would be wrong for this model."""
        ...

    def entry_plan(self, window: Window) -> Plan | None:
        """A forward that stores what precedes the window, run once before its first step."""
        return None

    def plan(self, state: StepState) -> Plan:
        """The forward of one step. Its shapes depend on the state's host integers alone."""
        ...
