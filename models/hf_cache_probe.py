"""Measures whether a Hugging Face module may read stored keys and values, and whether rows of different lengths may
share a batch: only if neither changes its outputs. Tried on few positions, on many, at the last positions that it has,
and in a row next to a longer one.

This finds windows, position scaling by the length of the batch, and states other than keys and values. It does not find
what a module does only beyond the probed positions and declares nowhere in its config.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from .adapter import Plan
from .attention import AttentionMask, AttentionPattern
from .hf_module import HFCacheInterface, HFMask
from .hf_probe import HFProbe, close, forward_kwargs, reason_against

_CACHE_NAMES = ("cache", "past_key_values")
_DEPENDS_ON_BATCH = "a longer row in the batch changes the outputs of a shorter one"


@dataclass(frozen=True)
class HFCacheProbe:
    """A probe of a module that attends as the pattern says under this mask form."""

    probe: HFProbe
    pattern: AttentionPattern
    hf_mask: HFMask

    @torch.inference_mode()
    def cache(self) -> HFCacheInterface | str:
        """The interface through which the module reads stored keys and values; or the reason why it cannot."""
        if self.depends_on_batch:
            return _DEPENDS_ON_BATCH
        reasons = []
        for name in _CACHE_NAMES:
            hf_mask = self.probe.explicit_mask(
                lambda hf_mask, name=name: self._error_on_few(HFCacheInterface(hf_mask, name)))
            if not isinstance(hf_mask, str):
                cache = HFCacheInterface(hf_mask, name)
                return reason_against(lambda cache=cache: self._error_on_many(cache)) or cache
            if hf_mask not in reasons:
                reasons.append(hf_mask)
        return "; ".join(reasons)

    @cached_property
    @torch.inference_mode()
    def depends_on_batch(self) -> bool:
        """Whether a longer row in the batch changes a row's outputs. False where position ids are not accepted."""
        return self._padded_row_changes() or reason_against(self._error_next_to_the_last) == _DEPENDS_ON_BATCH

    def _padded_row_changes(self) -> bool:
        num = self.probe.num_probed
        alone_1FE = self._alone(num // 2)
        tokens_BF, position_BF = self._ragged(num)
        batch_BFE = self.probe.states(tokens_BF, forward_kwargs(self.hf_mask, self.pattern, position_BF, num))
        return not close(batch_BFE[1:, : num // 2], alone_1FE)

    def _error_next_to_the_last(self) -> str | None:
        first_1F, last_1F = self._first_and_last()
        alone_1FE = self.probe.states(self.probe.two_tokens(4), {"position_ids": first_1F.clone()})  # some write to it
        both = {"position_ids": torch.cat((first_1F, last_1F))}
        batch_BFE = self.probe.states(self.probe.two_tokens(4).expand(2, -1), both)
        return None if close(batch_BFE[:1], alone_1FE) else _DEPENDS_ON_BATCH

    def _error_on_few(self, cache: HFCacheInterface) -> str | None:
        num = min(self.probe.max_length, 2 * getattr(self.pattern, "block", 2))
        position_1F = self.probe.positions(num)
        return self._error(cache, self.probe.two_tokens(num), position_1F, torch.full_like(position_1F[:, 0], num))

    def _error_on_many(self, cache: HFCacheInterface) -> str | None:
        num = self.probe.num_probed
        tokens_BF, position_BF = self._ragged(num)
        stop_B = torch.tensor([num, num // 2], device=tokens_BF.device)
        return self._error(cache, tokens_BF, position_BF, stop_B) or self._error_at_the_last(cache)

    def _error(self, cache: HFCacheInterface, tokens_BF: Tensor, position_BF: Tensor, stop_B: Tensor) -> str | None:
        """How outputs change when positions are fed again and the others' keys and values come from a store."""
        num_rows, num = tokens_BF.shape
        store, step = self.probe.shape.new_store(num_rows, num), getattr(self.pattern, "block", 1)
        alone = [self._alone(stop) for stop in stop_B.tolist()]
        for num_fed in (num, num - num // 2, min(step, num // 2)):
            first_B1 = (stop_B - num_fed).clamp(min=0)[:, None]
            feed_BF = first_B1 + self.probe.positions(num_fed)
            feed_BF = torch.where(feed_BF < stop_B[:, None], feed_BF, num)
            mask = Plan(feed_BF, feed_BF, num, stop_B).attention_mask(self.pattern, num)
            fed_BF = tokens_BF.gather(1, feed_BF.clamp(max=num - 1))
            states_BFE = self.probe.states(fed_BF, cache.kwargs(mask, feed_BF, store, num))
            if not store.keys_NBLKD.any():
                return "it passes no keys to a cache"
            for row, stop in enumerate(stop_B.tolist()):
                first = max(stop - num_fed, 0)
                if not close(states_BFE[row : row + 1, : stop - first], alone[row][:, first:]):
                    return f"stored keys and values change its outputs ({stop} of {num} positions)"
        return None

    def _error_at_the_last(self, cache: HFCacheInterface) -> str | None:
        """As `_error`, for positions before the module's last."""
        first_1F, last_1F = self._first_and_last()
        position_1F = torch.cat((first_1F[:, :3], last_1F[:, 3:]), 1)
        store, slots_1F = self.probe.shape.new_store(1, 4), self.probe.positions(4)
        tokens_1F, outputs = self.probe.two_tokens(4)[:, [0, 2, 1, 3]], []
        for num_fed in (4, 3):
            mask = AttentionMask(self.pattern, position_1F[:, :num_fed], position_1F)
            kwargs = cache.kwargs(mask, slots_1F[:, :num_fed], store, 4)
            outputs.append(self.probe.states(tokens_1F[:, :num_fed], kwargs))
        whole_1FE, again_1FE = outputs
        if close(again_1FE, whole_1FE[:, :3]):
            return None
        return f"stored keys and values change with later positions (up to {self.probe.max_length - 1})"

    def _alone(self, num: int) -> Tensor:
        """The hidden states of one row of `num` positions."""
        kwargs = forward_kwargs(self.hf_mask, self.pattern, self.probe.positions(num))
        return self.probe.states(self.probe.two_tokens(num), kwargs)

    def _ragged(self, num: int) -> tuple[Tensor, Tensor]:
        """Tokens and positions of a row of `num` and a padded row of half as many, int64 [2, F]."""
        short, position_1F = num // 2, self.probe.positions(num)
        tokens_BF = torch.cat((self.probe.two_tokens(num), F.pad(self.probe.two_tokens(short), (0, num - short))))
        return tokens_BF, torch.cat((position_1F, torch.where(position_1F < short, position_1F, num)))

    def _first_and_last(self) -> tuple[Tensor, Tensor]:
        """The first four positions that the module has, and the last four."""
        first_1F = self.probe.positions(4)
        return first_1F, first_1F + max(self.probe.max_length - 4, 0)
