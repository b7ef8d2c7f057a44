"""The interface of a cache: what a step recomputes."""

from typing import ClassVar, NamedTuple, Protocol

from ...models.adapter import LanguageModel, Plan
from ..step_state import StepState
from ..windows import Window, Windows


class Layout(NamedTuple):
    """What a cache decides on the host for one step. Plans of equal `key` are made by the same operations from tensors
    of the same shapes, whatever the values; `context` is the plan's."""

    key: tuple[int, ...] = ()
    context: int | None = None


class Cache(Protocol):
    """A subclass states what differs from these defaults."""

    is_exact: ClassVar[bool]
    """Whether a step equals a full recompute, up to rounding."""
    recomputes_committed: ClassVar[bool] = True
    """Whether committed positions of the window are recomputed, as revision requires."""
    stores: ClassVar[bool] = True
    """Whether a KVStore is needed."""

    def check_windows(self, windows: Windows) -> None:
        """ValueError with the reason if the cache cannot serve these windows. By default it serves all."""

    def check_model(self, model: LanguageModel, windows: Windows) -> None:
        """ValueError with the reason if the cache would be wrong for this model."""
        ...

    def entry_plan(self, window: Window) -> Plan | None:
        """The prefill: a forward that stores what precedes the window, run once before its first step."""
        return None

    def plan(self, state: StepState) -> Plan:
        """The forward of one step. Its shapes depend only on the state's host integers."""
        ...

    def layout(self, state: StepState) -> Layout | None:
        """By which steps are told apart that cannot be captured as one; None: none can be captured."""
        return None
