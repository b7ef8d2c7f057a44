"""Steps that are captured and replayed."""

from .captured_steps import CapturedSteps, Replays

__all__ = ["CapturedSteps", "Replays"]
