"""What a module of another library does, measured on a few tokens rather than believed: who sees whom, that padding is
not seen, that its logits are its output embedding of what enters it, and that stored keys and values change nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .adapter import Plan
from .attention import AttentionPattern, Bidirectional, Causal, View
from .foreign_module import (
    AddedMasks,
    BooleanMasks,
    ForeignShape,
    Masks,
    OwnMasks,
    Storing,
    head_input,
    head_of,
    narrow_layers,
    takes,
    uncached,
)

CACHE_NAMES = ("cache", "past_key_values")


@dataclass(frozen=True)
class Probe:
    """A module in eval mode, and its shape."""

    module: nn.Module
    shape: ForeignShape

    @torch.inference_mode()
    def own_pattern(self) -> AttentionPattern | str:
        """Bidirectional if the first position sees the last one by itself, else Causal; or why it cannot be asked."""
        try:
            sees_last = self._sees(OwnMasks(), Bidirectional(), 4)[0, -1]
        except _ERRORS as error:
            return _words(error)
        return Bidirectional() if sees_last else Causal()

    @torch.inference_mode()
    def masks(self, pattern: AttentionPattern, own: AttentionPattern | str) -> Masks:
        """How to make the module see what the pattern says and no padding. ValueError with the reasons if it does not
        listen."""
        found = self._first(lambda masks: self._contradiction(masks, pattern), [OwnMasks()] if pattern == own else [])
        if isinstance(found, str):
            raise ValueError(f"{self._name}: cannot be made to attend as {pattern}: {found}")
        return found

    @torch.inference_mode()
    def num_tokens(self, pattern: AttentionPattern, masks: Masks) -> int:
        """The width of the module's logits. ValueError if they are not its output embedding of what enters it."""
        position_1F = self._positions(4)
        told = self._told(self._tokens(4), masks, View(pattern, position_1F, position_1F))
        head, large = head_of(self.module), 100  # so large that a cap or a scale shows, whatever the weights
        states_1FE = large * head_input(self.module, told)
        handle = head.register_forward_pre_hook(lambda head, inputs: (large * inputs[0],))
        try:
            logits_1FV = getattr(self.module(**told), "logits", None)
        finally:
            handle.remove()
        if logits_1FV is None:
            raise ValueError(f"{self._name}: its forward returns no logits")
        if not _close(logits_1FV, head(states_1FE)):
            raise ValueError(f"{self._name}: its logits are not its output embedding of what enters it, but scaled, "
                             "capped or moved; wrap its logits with LogitsFunction")
        return logits_1FV.shape[-1]

    @torch.inference_mode()
    def storing(self, pattern: AttentionPattern, masks: Masks) -> Storing | str:
        """How to make it see stored keys and values too; or the reason why it cannot."""
        reasons = []
        for name in CACHE_NAMES:
            stored = self._first(lambda stored, name=name: self._store_error(pattern, masks, Storing(stored, name)), [])
            if not isinstance(stored, str):
                return Storing(stored, name)
            reasons.append(f"as {name}: {stored}")
        return "; ".join(reasons)

    def _first(self, refusal: Callable[[Masks], str | None], ways: list[Masks]) -> Masks | str:
        """The first of these ways, and of those by masks from outside, that is not refused; or all reasons."""
        attention, last = getattr(self.module.config, "_attn_implementation", "eager"), self.shape.max_length - 1
        narrow, reasons = narrow_layers(self.module, self.shape.max_length), []
        if not takes(self.module, "position_ids"):
            reasons.append("its forward takes no position_ids")
        elif attention not in ("eager", "sdpa"):
            reasons.append(f"attn_implementation={attention!r} takes no mask from outside; use 'sdpa' or 'eager'")
        elif narrow is not None:
            reasons.append(f"its layers do not all see the same ({narrow})")
        else:
            ways = [*ways, AddedMasks(self.shape.dtype, last), BooleanMasks(last)]
        for masks in ways:
            reason = _refusal(lambda masks=masks: refusal(masks))
            if reason is None:
                return masks
            reasons.append(f"{type(masks).__name__}: {reason}")
        return "; ".join(reasons)

    def _contradiction(self, masks: Masks, pattern: AttentionPattern) -> str | None:
        """In what the module contradicts the pattern, or that it sees padding."""
        num = min(self.shape.max_length, max(4, getattr(pattern, "block", 0) + 2))
        position_1F, tokens_1F = self._positions(num), self._tokens(num)
        visible_1FF, seen_FF = pattern.visible(position_1F, position_1F), self._sees(masks, pattern, num)
        wrong_FF = ~seen_FF if visible_1FF is None else seen_FF != visible_1FF[0]
        if wrong_FF.any():
            query, key = wrong_FF.nonzero()[0].tolist()
            return f"position {query} {'sees' if seen_FF[query, key] else 'does not see'} position {key}"
        alone_1FE = self._states(tokens_1F[:, :-1], masks, View(pattern, position_1F[:, :-1], position_1F[:, :-1]))
        padded_1F = position_1F.clone()
        padded_1F[:, -1] = num
        padded_1FE = self._states(tokens_1F, masks, View(pattern, padded_1F, padded_1F, num))
        return None if _close(padded_1FE[:, :-1], alone_1FE) else "padding is seen"

    def _store_error(self, pattern: AttentionPattern, masks: Masks, storing: Storing) -> str | None:
        """Why positions that are fed again, with the others' keys and values from a store, answer differently."""
        num = min(self.shape.max_length, 2 * getattr(pattern, "block", 2))
        position_1F, tokens_1F, store = self._positions(num), self._tokens(num), self.shape.new_store(1, num)
        whole_1FE = again_1FE = self._states(tokens_1F, masks, View(pattern, position_1F, position_1F))
        for feed_1F in (position_1F, position_1F[:, num // 2 :]):
            view = Plan(feed_1F, feed_1F, num).view(pattern, num)
            told = storing.arguments(self.module, view, store.write(feed_1F, num))
            again_1FE = head_input(self.module, {"input_ids": tokens_1F.gather(1, feed_1F), **told})
            if not store.keys_NBLKD.any():
                return "it hands over no keys"
        return None if _close(again_1FE, whole_1FE[:, num // 2 :]) else "stored keys and values change its answers"

    def _sees(self, masks: Masks, pattern: AttentionPattern, num: int) -> Tensor:
        """Whether query q's states change with token k, bool [F, F]."""
        position_1F, tokens_1F = self._positions(num), self._tokens(num)
        is_changed_FF = torch.eye(num, dtype=torch.bool, device=self.shape.device)
        tokens_BF = torch.cat((tokens_1F, torch.where(is_changed_FF, 3 - tokens_1F, tokens_1F)))
        position_BF = position_1F.expand(len(tokens_BF), -1)
        states_BFE = self._states(tokens_BF, masks, View(pattern, position_BF, position_BF)).float()
        change_FF = (states_BFE[1:] - states_BFE[:1]).abs().amax(-1)
        return (change_FF > 1e-6 * states_BFE.abs().max()).T

    def _states(self, tokens_BF: Tensor, masks: Masks, view: View) -> Tensor:
        return head_input(self.module, self._told(tokens_BF, masks, view))

    def _told(self, tokens_BF: Tensor, masks: Masks, view: View) -> dict[str, Any]:
        return {"input_ids": tokens_BF, **masks.arguments(view), **uncached(self.module)}

    def _tokens(self, num: int) -> Tensor:
        """Tokens 1 and 2 in turns, int64 [1, F]."""
        return self._positions(num) % 2 + 1

    def _positions(self, num: int) -> Tensor:
        return torch.arange(num, device=self.shape.device)[None]

    @property
    def _name(self) -> str:
        return type(self.module).__name__


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether two computations of the same differ by the rounding of their type."""
    tolerance = max(1e-4, 4 * torch.finfo(a.dtype).eps)
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * b.abs().max())


# What code that we do not know may raise when it is asked for what it cannot do.
_ERRORS = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _refusal(question: Callable[[], str | None]) -> str | None:
    """What a question answers, or the error in which it ends."""
    try:
        return question()
    except _ERRORS as error:
        return _words(error)
