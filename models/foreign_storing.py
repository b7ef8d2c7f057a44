"""Whether a module of another library may be given stored keys and values, and rows of unlike length: only where that
changes none of its answers, neither on few positions, nor on as many as are cheap, nor at the last that it knows, nor
in a row beside a longer one.

Windows, positions rescaled by the length of the batch, and states that are no keys show in one of these. What a module
does past the positions that are cheap, on none that it is told, and names nowhere in its config, does not.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from .adapter import Plan
from .attention import AttentionPattern, View
from .foreign_module import Masks, Storing
from .foreign_probe import Probe, close, refusal, told

_CACHE_NAMES = ("cache", "past_key_values")
_CHANGED = "a longer row beside it changes what a row answers"


@dataclass(frozen=True)
class LengthProbe:
    """A probe of a module that sees as the pattern says if it is told of by the masks."""

    probe: Probe
    pattern: AttentionPattern
    masks: Masks

    @torch.inference_mode()
    def storing(self) -> Storing | str:
        """How to make it see stored keys and values; or the reason why it cannot."""
        if self.rows_change_rows:
            return _CHANGED
        reasons = []
        for name in _CACHE_NAMES:
            masks = self.probe.masks_from_outside(lambda masks, name=name: self._error_in_few(Storing(masks, name)))
            if not isinstance(masks, str):
                storing = Storing(masks, name)
                return refusal(lambda storing=storing: self._error_in_many(storing)) or storing
            if masks not in reasons:
                reasons.append(masks)
        return "; ".join(reasons)

    @cached_property
    @torch.inference_mode()
    def rows_change_rows(self) -> bool:
        """Whether a row answers otherwise beside a longer one; where it cannot be asked, no."""
        return self._padded_row_changes() or refusal(self._error_beside_the_last) == _CHANGED

    def _padded_row_changes(self) -> bool:
        num = self.probe.num_long
        alone_1FE = self._alone(num // 2)
        tokens_BF, position_BF = self._ragged(num)
        beside_BFE = self.probe.states(tokens_BF, told(self.masks, self.pattern, position_BF, num))
        return not close(beside_BFE[1:, : num // 2], alone_1FE)

    def _error_beside_the_last(self) -> str | None:
        near_1F, far_1F = self._near_and_far()
        alone_1FE = self.probe.states(self.probe.mixed(4), {"position_ids": near_1F.clone()})  # some write to it
        both = {"position_ids": torch.cat((near_1F, far_1F))}
        beside_BFE = self.probe.states(self.probe.mixed(4).expand(2, -1), both)
        return None if close(beside_BFE[:1], alone_1FE) else _CHANGED

    def _error_in_few(self, storing: Storing) -> str | None:
        num = min(self.probe.max_length, 2 * getattr(self.pattern, "block", 2))
        position_1F = self.probe.positions(num)
        return self._error(storing, self.probe.mixed(num), position_1F, torch.full_like(position_1F[:, 0], num))

    def _error_in_many(self, storing: Storing) -> str | None:
        num = self.probe.num_long
        tokens_BF, position_BF = self._ragged(num)
        stop_B = torch.tensor([num, num // 2], device=tokens_BF.device)
        return self._error(storing, tokens_BF, position_BF, stop_B) or self._error_at_the_last(storing)

    def _error(self, storing: Storing, tokens_BF: Tensor, position_BF: Tensor, stop_B: Tensor) -> str | None:
        """Why positions that are fed again, with the others' keys and values from a store, answer differently."""
        num_rows, num = tokens_BF.shape
        store, step = self.probe.shape.new_store(num_rows, num), getattr(self.pattern, "block", 1)
        alone = [self._alone(stop) for stop in stop_B.tolist()]
        for num_fed in (num, num - num // 2, min(step, num // 2)):
            first_B1 = (stop_B - num_fed).clamp(min=0)[:, None]
            feed_BF = first_B1 + self.probe.positions(num_fed)
            feed_BF = torch.where(feed_BF < stop_B[:, None], feed_BF, num)
            view = Plan(feed_BF, context=num, stop_B=stop_B).view(self.pattern, num)
            fed_BF = tokens_BF.gather(1, feed_BF.clamp(max=num - 1))
            states_BFE = self.probe.states(fed_BF, storing.arguments(view, feed_BF, store, num))
            if not store.keys_NBLKD.any():
                return "it hands over no keys"
            for row, stop in enumerate(stop_B.tolist()):
                first = max(stop - num_fed, 0)
                if not close(states_BFE[row : row + 1, : stop - first], alone[row][:, first:]):
                    return f"stored keys and values change its answers (in {stop} of {num} positions)"
        return None

    def _error_at_the_last(self, storing: Storing) -> str | None:
        """The same for positions before the last that the module knows."""
        near_1F, far_1F = self._near_and_far()
        position_1F = torch.cat((near_1F[:, :3], far_1F[:, 3:]), 1)
        store, slots_1F = self.probe.shape.new_store(1, 4), self.probe.positions(4)
        tokens_1F, answers = self.probe.mixed(4)[:, [0, 2, 1, 3]], []
        for num_fed in (4, 3):
            view = View(self.pattern, position_1F[:, :num_fed], position_1F)
            arguments = storing.arguments(view, slots_1F[:, :num_fed], store, 4)
            answers.append(self.probe.states(tokens_1F[:, :num_fed], arguments))
        whole_1FE, again_1FE = answers
        if close(again_1FE, whole_1FE[:, :3]):
            return None
        return f"what is stored changes with the positions that follow it (up to {self.probe.max_length - 1})"

    def _alone(self, num: int) -> Tensor:
        """The states of a row of so many positions."""
        return self.probe.states(self.probe.mixed(num), told(self.masks, self.pattern, self.probe.positions(num)))

    def _ragged(self, num: int) -> tuple[Tensor, Tensor]:
        """Tokens and positions of a row of `num` and one of half as many, which is padded; int64 [2, F]."""
        short, position_1F = num // 2, self.probe.positions(num)
        tokens_BF = torch.cat((self.probe.mixed(num), F.pad(self.probe.mixed(short), (0, num - short))))
        return tokens_BF, torch.cat((position_1F, torch.where(position_1F < short, position_1F, num)))

    def _near_and_far(self) -> tuple[Tensor, Tensor]:
        """The first four positions that the module knows, and the last four."""
        near_1F = self.probe.positions(4)
        return near_1F, near_1F + max(self.probe.max_length - 4, 0)
