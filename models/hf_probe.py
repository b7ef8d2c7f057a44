"""Measures a Hugging Face module on a few tokens instead of trusting its config: its attention pattern, the mask form
that it obeys, its number of positions, and that its logits are its output embedding of its last hidden states."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .attention import AttentionMask, AttentionPattern, Bidirectional, Causal
from .hf_config import HFModelShape, local_layers, special_tokens
from .hf_module import AdditiveMask, BooleanMask, HFMask, HFModule, NoMask, head_of, path_to
from .hf_positions import PositionTable, position_table

# A long probe has as many positions as this many multiplications allow, within the two bounds.
_MULTIPLICATIONS, _MIN_POSITIONS, _MAX_POSITIONS = 10**10, 8, 1024


class _ScaledHead(nn.Module):
    """A head whose input is multiplied by `scale`."""

    def __init__(self, head: nn.Module, scale: float) -> None:
        super().__init__()
        self.head, self.scale = head, scale

    def forward(self, states: Tensor, *further: Any) -> Tensor:
        return self.head(self.scale * states, *further)

    def __getattr__(self, name: str) -> Any:
        modules = self.__dict__["_modules"]
        return modules[name] if name in modules else getattr(modules["head"], name)


@dataclass(frozen=True)
class HFProbe:
    """A module in eval mode with what was measured of it: its shape, two ordinary tokens, its number of positions, and
    the position id of position 0."""

    hf_module: HFModule
    shape: HFModelShape
    tokens: tuple[int, int]
    max_length: int = 0
    first_id: int = 0

    @classmethod
    @torch.inference_mode()
    def of(cls, module: nn.Module, *, max_length: int | None = None, mask_id: int | None = None) -> "HFProbe":
        """max_length is the caller's, else the config's, and at most that of the module's position table. ValueError if
        none is known, if the caller's is longer than the table, or if the config lacks a field."""
        hf_module, shape = HFModule(module, path_to(module, head_of(module))), HFModelShape.of(module)
        probe = cls(hf_module, shape, _ordinary_tokens(module, mask_id))
        probe = replace(probe, hf_module=replace(hf_module, accepts_use_cache=probe._accepts_use_cache()))
        table = probe._position_table()
        longest = shape.max_length if table is None else min(table.length, shape.max_length or table.length)
        if table is not None and max_length is not None and max_length > table.length:
            raise ValueError(f"max_length={max_length}: {hf_module.name} has {table.length} positions")
        longest = longest if max_length is None else max_length
        if longest is None:
            raise ValueError(f"{hf_module.name}: its config has no number of positions; give max_length")
        return replace(probe, max_length=longest, first_id=0 if table is None else table.first_id)

    def _accepts_use_cache(self) -> bool:
        try:
            self.states(self.two_tokens(1), {"use_cache": False})
        except TypeError as error:
            return "use_cache" not in str(error)
        except ERRORS:
            return True
        return True

    def _position_table(self) -> PositionTable | None:
        try:
            return position_table(lambda num: self.states(self.two_tokens(num), {}))
        except ERRORS:
            return None

    @torch.inference_mode()
    def native_pattern(self) -> AttentionPattern | str:
        """The pattern without a mask: Bidirectional if the first position sees the last one, else Causal; or the error
        of a call with tokens only."""
        try:
            sees_last = self._sees(NoMask(), Bidirectional(), 4)[0, -1]
        except ERRORS as error:
            return named(error)
        return Bidirectional() if sees_last else Causal()

    @torch.inference_mode()
    def mask_for(self, pattern: AttentionPattern, native: AttentionPattern | str) -> HFMask:
        """The mask form that makes the module attend as the pattern says, and not to padding. ValueError with the
        reasons if there is none."""
        reasons = []
        if pattern == native:
            reason = reason_against(lambda: self._mismatch(NoMask(), pattern))
            if reason is None:
                return NoMask()
            reasons.append(f"NoMask: {reason}")
        found = self.explicit_mask(
            lambda hf_mask: self._mismatch(hf_mask, pattern) or self._changed_outputs(hf_mask, native))
        if isinstance(found, str):
            raise ValueError(f"{self.hf_module.name}: cannot be made to attend as {pattern}: "
                             f"{'; '.join([*reasons, found])}")
        return found

    def explicit_mask(self, check: Callable[[HFMask], str | None]) -> HFMask | str:
        """The first 4-dimensional mask form that `check` has no reason against; or all reasons."""
        local = local_layers(getattr(self.hf_module.module, "config", None), self.max_length)
        if local is not None:
            return f"its layers do not all have full attention ({local})"
        if self.shape.attention not in (None, "eager", "sdpa"):
            return f"attn_implementation={self.shape.attention!r} takes no 4-dimensional mask; use 'sdpa' or 'eager'"
        last, reasons = self.max_length - 1, []
        for first_id in dict.fromkeys((0, self.first_id)):
            for hf_mask in (AdditiveMask(self.shape.dtype, last, first_id), BooleanMask(last, first_id)):
                reason = reason_against(lambda hf_mask=hf_mask: check(hf_mask))
                if reason is None:
                    return hf_mask
                reasons.append(f"{type(hf_mask).__name__}: {reason}")
        return "; ".join(dict.fromkeys(reasons))

    def _mismatch(self, hf_mask: HFMask, pattern: AttentionPattern) -> str | None:
        """How the module's attention differs from the pattern, or that it sees padding."""
        num = min(self.max_length, max(4, getattr(pattern, "block", 0) + 2))
        position_1F, tokens_1F = self.positions(num), self.two_tokens(num)
        visible_1FF, seen_FF = pattern.visible(position_1F, position_1F), self._sees(hf_mask, pattern, num)
        wrong_FF = ~seen_FF if visible_1FF is None else seen_FF != visible_1FF[0]
        if wrong_FF.any():
            query, key = wrong_FF.nonzero()[0].tolist()
            return f"position {query} {'sees' if seen_FF[query, key] else 'does not see'} position {key}"
        alone_1FE = self.states(tokens_1F[:, :-1], forward_kwargs(hf_mask, pattern, position_1F[:, :-1]))
        padded_1F = position_1F.clone()
        padded_1F[:, -1] = num
        padded_1FE = self.states(tokens_1F, forward_kwargs(hf_mask, pattern, padded_1F, num))
        return None if close(padded_1FE[:, :-1], alone_1FE) else "padding is seen"

    def _changed_outputs(self, hf_mask: HFMask, native: AttentionPattern | str) -> str | None:
        """That a mask of the native pattern changes the module's outputs."""
        if isinstance(native, str):
            return None
        tokens_1F, position_1F = self.two_tokens(self.num_probed), self.positions(self.num_probed)
        unmasked_1FE = self.states(tokens_1F, {})
        if close(self.states(tokens_1F, forward_kwargs(hf_mask, native, position_1F)), unmasked_1FE):
            return None
        return f"a mask of its own pattern changes its outputs on {self.num_probed} positions"

    def _sees(self, hf_mask: HFMask, pattern: AttentionPattern, num: int) -> Tensor:
        """Whether the hidden states of query q change with token k, bool [F, F]. Each change runs in a batch of one:
        in a larger one products may round by the row. Experts' products may still, within 2e-6 of the largest state."""
        position_1F, tokens_1F = self.positions(num), self.two_tokens(num)
        is_changed_FF = torch.eye(num, dtype=torch.bool, device=self.shape.device)
        tokens_BF = torch.cat((tokens_1F, torch.where(is_changed_FF, sum(self.tokens) - tokens_1F, tokens_1F)))
        kwargs = forward_kwargs(hf_mask, pattern, position_1F)
        states_BFE = torch.cat([self.states(tokens_F[None], kwargs) for tokens_F in tokens_BF]).float()
        change_FF = (states_BFE[1:] - states_BFE[:1]).abs().amax(-1)
        return (change_FF > 4e-6 * states_BFE.abs().max()).T

    @torch.inference_mode()
    def logits_width(self, pattern: AttentionPattern, hf_mask: HFMask) -> int:
        """The width of the module's logits. ValueError if they are not its output embedding of its hidden states."""
        kwargs, scale = forward_kwargs(hf_mask, pattern, self.positions(4)), 100  # large enough to show a softcap
        states_1FE = scale * self.states(self.two_tokens(4), kwargs)
        scaled = self.hf_module.outputs(self.two_tokens(4), kwargs, _ScaledHead(self.hf_module.head, scale))
        logits_1FV = getattr(scaled, "logits", None)
        if logits_1FV is None:
            raise ValueError(f"{self.hf_module.name}: its forward returns no logits")
        if not close(logits_1FV, self.hf_module.head(states_1FE)):
            raise ValueError(f"{self.hf_module.name}: its logits are not its output embedding of its hidden states "
                             "(scaled, capped or shifted); wrap its logits with LogitsFunction")
        return logits_1FV.shape[-1]

    @property
    def num_probed(self) -> int:
        """The number of positions of a long probe."""
        num_weights = sum(weight.numel() for weight in self.hf_module.module.parameters())
        return min(self.max_length, _MAX_POSITIONS, max(_MIN_POSITIONS, _MULTIPLICATIONS // num_weights))

    def states(self, tokens_BF: Tensor, kwargs: dict[str, Any]) -> Tensor:
        return self.hf_module.head_input(tokens_BF, kwargs)

    def two_tokens(self, num: int) -> Tensor:
        """One token in the first half, another in the second, int64 [1, F]: an average over a window would show."""
        first, second = self.tokens
        return torch.where(self.positions(num) < num // 2, first, second)

    def positions(self, num: int) -> Tensor:
        return torch.arange(num, device=self.shape.device)[None]


def forward_kwargs(hf_mask: HFMask, pattern: AttentionPattern, position_BF: Tensor, end: int | None = None
                   ) -> dict[str, Any]:
    """The forward's keyword arguments for positions that see one another; those at `end` are padding."""
    return hf_mask.kwargs(AttentionMask(pattern, position_BF, position_BF, end))


def close(a_BFE: Tensor, b_BFE: Tensor) -> bool:
    """Whether two computations of the same states differ only by rounding: at all positions, or at seven of eight if
    there are more than 32, since rounding may change the routing of a few."""
    if a_BFE.shape != b_BFE.shape:
        return False
    tolerance = max(1e-4, 4 * torch.finfo(a_BFE.dtype).eps)
    is_far_T = ((a_BFE - b_BFE).abs().amax(-1) > tolerance * b_BFE.abs().max()).flatten()
    return bool(is_far_T.sum() <= (len(is_far_T) // 8 if len(is_far_T) > 32 else 0))


# What unknown code may raise on arguments that it does not support.
ERRORS = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def reason_against(check: Callable[[], str | None]) -> str | None:
    """What `check` returns, or the error that it raises."""
    try:
        return check()
    except ERRORS as error:
        return named(error)


def _ordinary_tokens(module: nn.Module, mask_id: int | None) -> tuple[int, int]:
    """Two tokens from the middle of the vocabulary that no config names and whose embeddings differ."""
    get_table = getattr(module, "get_input_embeddings", None)
    table = None if get_table is None else getattr(get_table(), "weight", None)
    num = len(table) if table is not None else getattr(getattr(module, "config", None), "vocab_size", 4)
    special = special_tokens(module) | {mask_id}
    middle = sorted(range(num), key=lambda token: abs(token - num // 2))
    ordinary = [token for token in middle if token not in special] + [token for token in middle if token in special]
    first = ordinary[0]
    if table is None:
        return first, ordinary[1]
    return first, next((token for token in ordinary[1:] if not torch.equal(table[token], table[first])), ordinary[1])
