"""What is recomputed: which positions each forward feeds, which it asks for, and what stays stored.

    recompute      everything, every step; nothing stored
    append         the positions committed since the last forward; exact for causal models in blocks of one
    block-causal   the current block; each finished block once more, clean, to store it; exact for block-causal models
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from ..models.adapter import LanguageModel, Plan
from ..models.attention import BlockCausal, Causal
from .windows import Blocks, GridBlocks, Window, Windows


class Cache(Protocol):
    @property
    def stores(self) -> bool:
        """Whether a KVStore is needed."""
        ...

    def check_windows(self, windows: Windows) -> None:
        """ValueError with the reason if the cache cannot serve these windows."""
        ...

    def check_model(self, model: LanguageModel, windows: Windows) -> None:
        """ValueError with the reason if the cache would be wrong for this model."""
        ...

    def entry_plan(self, window: Window, length: int) -> Plan | None:
        """A forward that stores what lies before the window, run once on entering it."""
        ...

    def plan(self, window: Window, length: int) -> Plan:
        """The forward of one step in the window, on canvases of `length` positions."""
        ...


def _prefix(window: Window, length: int) -> torch.Tensor:
    """Positions before the window that no earlier window stored, [B, F]: the prompt, or the window before."""
    if window.previous_BQ is not None:
        return window.previous_BQ
    position_F = torch.arange(window.begin, device=window.query_BQ.device)
    return torch.where(position_F < window.first_B1, position_F, length)


@dataclass(frozen=True)
class Recompute:
    @property
    def stores(self) -> bool:
        return False

    def check_windows(self, windows: Windows) -> None:
        """Any windows will do."""

    def check_model(self, model: LanguageModel, windows: Windows) -> None:
        if isinstance(model.pattern, Causal) and windows != Blocks(1):
            raise ValueError(f"attention {model.pattern} with {windows}: a causal model decides from left to right, in "
                             "blocks of 1")

    def entry_plan(self, window: Window, length: int) -> None:
        return None

    def plan(self, window: Window, length: int) -> Plan:
        position_L = torch.arange(length, device=window.query_BQ.device)
        if not window.padded:
            return Plan(position_L.expand(len(window.query_BQ), -1).contiguous(), window.query_BQ)
        feed_BL = torch.where(position_L < window.stop_B[:, None], position_L, length)
        return Plan(feed_BL, window.query_BQ, padded=True)


@dataclass(frozen=True)
class Append:
    @property
    def stores(self) -> bool:
        return True

    def check_windows(self, windows: Windows) -> None:
        if windows != Blocks(1):
            raise ValueError(f"cache append with {windows}: needs blocks of 1, since it feeds decided positions only")

    def check_model(self, model: LanguageModel, windows: Windows) -> None:
        if not isinstance(model.pattern, Causal) or model.shift != 1:
            raise ValueError(f"cache append with attention {model.pattern} and shift {model.shift}: needs a causal "
                             "next-token model, whose past never changes")

    def entry_plan(self, window: Window, length: int) -> None:
        return None

    def plan(self, window: Window, length: int) -> Plan:
        feed_BF = _prefix(window, length)
        follows = feed_BF.shape[1] == 1 and not window.padded
        return Plan(feed_BF, window.query_BQ, context=window.begin, sees_all=follows)


@dataclass(frozen=True)
class BlockCausalCache:
    @property
    def stores(self) -> bool:
        return True

    def check_windows(self, windows: Windows) -> None:
        if not isinstance(windows, GridBlocks):
            raise ValueError(f"cache block_causal with {windows}: needs grid blocks, on which the model was trained")

    def check_model(self, model: LanguageModel, windows: Windows) -> None:
        if model.pattern != BlockCausal(windows.size) or model.shift:  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueError(f"cache block_causal with {windows} and attention {model.pattern}: needs a block-causal "
                             "model of the same block size without shift")

    def entry_plan(self, window: Window, length: int) -> Plan | None:
        if window.begin == 0:
            return None
        feed_BF = _prefix(window, length)
        return Plan(feed_BF, feed_BF[:, :0], context=window.begin)

    def plan(self, window: Window, length: int) -> Plan:
        return Plan(window.query_BQ, window.query_BQ, context=window.reach, sees_all=not window.padded)
