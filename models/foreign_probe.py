"""What a module of another library does, measured on a few tokens rather than believed: who sees whom, that padding is
not seen, which positions it knows, and that its logits are its output embedding of what enters it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .attention import AttentionMask, AttentionPattern, Bidirectional, Causal
from .foreign_config import ForeignShape, narrow_layers, special_tokens
from .foreign_module import AddedMasks, BooleanMasks, ForeignModule, Masks, OwnMasks, head_of, path_to
from .foreign_positions import PositionTable, position_table

# A long probe takes as many positions as this many multiplications pay for, up to the most.
_MULTIPLICATIONS, _FEWEST, _MOST = 10**10, 8, 1024


class _Magnifying(nn.Module):
    """A head of `scale` times what enters it."""

    def __init__(self, head: nn.Module, scale: float) -> None:
        super().__init__()
        self.head, self.scale = head, scale

    def forward(self, states: Tensor, *further: Any) -> Tensor:
        return self.head(self.scale * states, *further)

    def __getattr__(self, name: str) -> Any:
        modules = self.__dict__["_modules"]
        return modules[name] if name in modules else getattr(modules["head"], name)


@dataclass(frozen=True)
class Probe:
    """A module in eval mode, its shape, two tokens that mean nothing to it, how many positions it knows, and what
    stands for the first of them where it is told."""

    called: ForeignModule
    shape: ForeignShape
    tokens: tuple[int, int]
    max_length: int = 0
    first_id: int = 0

    @classmethod
    @torch.inference_mode()
    def of(cls, module: nn.Module, *, max_length: int | None = None, mask_id: int | None = None) -> "Probe":
        """max_length is as the caller knows it, else as the config says, but never more than the module has. ValueError
        names what nobody says, and a max_length that the module does not reach."""
        called, shape = ForeignModule(module, path_to(module, head_of(module))), ForeignShape.of(module)
        probe = cls(called, shape, _plain_tokens(module, mask_id))
        probe = replace(probe, called=replace(called, takes_use_cache=probe._takes_use_cache()))
        table = probe._position_table()
        longest = shape.max_length if table is None else min(table.length, shape.max_length or table.length)
        if table is not None and max_length is not None and max_length > table.length:
            raise ValueError(f"max_length={max_length}: {called.name} knows {table.length} positions")
        longest = longest if max_length is None else max_length
        if longest is None:
            raise ValueError(f"{called.name}: its config does not say how many positions it knows; give max_length")
        return replace(probe, max_length=longest, first_id=0 if table is None else table.first_id)

    def _takes_use_cache(self) -> bool:
        try:
            self.states(self.mixed(1), {"use_cache": False})
        except TypeError as error:
            return "use_cache" not in str(error)
        except ERRORS:
            return True
        return True

    def _position_table(self) -> PositionTable | None:
        try:
            return position_table(lambda num: self.states(self.mixed(num), {}))
        except ERRORS:
            return None

    @torch.inference_mode()
    def own_pattern(self) -> AttentionPattern | str:
        """Bidirectional if the first position sees the last one by itself, else Causal; or why it cannot be asked."""
        try:
            sees_last = self._sees(OwnMasks(), Bidirectional(), 4)[0, -1]
        except ERRORS as error:
            return words(error)
        return Bidirectional() if sees_last else Causal()

    @torch.inference_mode()
    def masks(self, pattern: AttentionPattern, own: AttentionPattern | str) -> Masks:
        """How to make the module see what the pattern says and no padding. ValueError with the reasons if it does not
        listen."""
        reasons = []
        if pattern == own:
            reason = refusal(lambda: self._contradiction(OwnMasks(), pattern))
            if reason is None:
                return OwnMasks()
            reasons.append(f"OwnMasks: {reason}")
        found = self.masks_from_outside(lambda masks: self._contradiction(masks, pattern) or self._moved(masks, own))
        if isinstance(found, str):
            raise ValueError(f"{self.called.name}: cannot be made to attend as {pattern}: "
                             f"{'; '.join([*reasons, found])}")
        return found

    def masks_from_outside(self, refused: Callable[[Masks], str | None]) -> Masks | str:
        """The first kind of masks from outside that is not refused; or all reasons."""
        narrow = narrow_layers(getattr(self.called.module, "config", None), self.max_length)
        if narrow is not None:
            return f"its layers do not all see the same ({narrow})"
        if self.shape.attention not in (None, "eager", "sdpa"):
            return f"attn_implementation={self.shape.attention!r} takes no mask from outside; use 'sdpa' or 'eager'"
        last, reasons = self.max_length - 1, []
        for first_id in dict.fromkeys((0, self.first_id)):
            for masks in (AddedMasks(self.shape.dtype, last, first_id), BooleanMasks(last, first_id)):
                reason = refusal(lambda masks=masks: refused(masks))
                if reason is None:
                    return masks
                reasons.append(f"{type(masks).__name__}: {reason}")
        return "; ".join(dict.fromkeys(reasons))

    def _contradiction(self, masks: Masks, pattern: AttentionPattern) -> str | None:
        """In what the module contradicts the pattern, or that it sees padding."""
        num = min(self.max_length, max(4, getattr(pattern, "block", 0) + 2))
        position_1F, tokens_1F = self.positions(num), self.mixed(num)
        visible_1FF, seen_FF = pattern.visible(position_1F, position_1F), self._sees(masks, pattern, num)
        wrong_FF = ~seen_FF if visible_1FF is None else seen_FF != visible_1FF[0]
        if wrong_FF.any():
            query, key = wrong_FF.nonzero()[0].tolist()
            return f"position {query} {'sees' if seen_FF[query, key] else 'does not see'} position {key}"
        alone_1FE = self.states(tokens_1F[:, :-1], told(masks, pattern, position_1F[:, :-1]))
        padded_1F = position_1F.clone()
        padded_1F[:, -1] = num
        padded_1FE = self.states(tokens_1F, told(masks, pattern, padded_1F, num))
        return None if close(padded_1FE[:, :-1], alone_1FE) else "padding is seen"

    def _moved(self, masks: Masks, own: AttentionPattern | str) -> str | None:
        """That masks from outside change the module's answers though they say what it does by itself."""
        if isinstance(own, str):
            return None
        tokens_1F, position_1F = self.mixed(self.num_long), self.positions(self.num_long)
        by_itself_1FE = self.states(tokens_1F, {})
        if close(self.states(tokens_1F, told(masks, own, position_1F)), by_itself_1FE):
            return None
        return f"of {self.num_long} positions it answers otherwise than by itself"

    def _sees(self, masks: Masks, pattern: AttentionPattern, num: int) -> Tensor:
        """Whether query q's states change with token k, bool [F, F]."""
        position_1F, tokens_1F = self.positions(num), self.mixed(num)
        is_changed_FF = torch.eye(num, dtype=torch.bool, device=self.shape.device)
        tokens_BF = torch.cat((tokens_1F, torch.where(is_changed_FF, sum(self.tokens) - tokens_1F, tokens_1F)))
        position_BF = position_1F.expand(len(tokens_BF), -1)
        states_BFE = self.states(tokens_BF, told(masks, pattern, position_BF)).float()
        change_FF = (states_BFE[1:] - states_BFE[:1]).abs().amax(-1)
        return (change_FF > 1e-6 * states_BFE.abs().max()).T

    @torch.inference_mode()
    def num_tokens(self, pattern: AttentionPattern, masks: Masks) -> int:
        """The width of the module's logits. ValueError if they are not its output embedding of what enters it."""
        arguments, large = told(masks, pattern, self.positions(4)), 100  # so large that a cap or a scale shows
        states_1FE = large * self.states(self.mixed(4), arguments)
        magnified = self.called.outputs(self.mixed(4), arguments, _Magnifying(self.called.head, large))
        logits_1FV = getattr(magnified, "logits", None)
        if logits_1FV is None:
            raise ValueError(f"{self.called.name}: its forward returns no logits")
        if not close(logits_1FV, self.called.head(states_1FE)):
            raise ValueError(f"{self.called.name}: its logits are not its output embedding of what enters it, but "
                             "scaled, capped or moved; wrap its logits with LogitsFunction")
        return logits_1FV.shape[-1]

    @property
    def num_long(self) -> int:
        """How many positions are as many as is cheap."""
        num_weights = sum(weight.numel() for weight in self.called.module.parameters())
        return min(self.max_length, _MOST, max(_FEWEST, _MULTIPLICATIONS // num_weights))

    def states(self, tokens_BF: Tensor, arguments: dict[str, Any]) -> Tensor:
        return self.called.head_input(tokens_BF, arguments)

    def mixed(self, num: int) -> Tensor:
        """One of the two tokens in the first half, the other in the second, so that a window cannot hide in an average
        of what it lets see; int64 [1, F]."""
        first, second = self.tokens
        return torch.where(self.positions(num) < num // 2, first, second)

    def positions(self, num: int) -> Tensor:
        return torch.arange(num, device=self.shape.device)[None]


def told(masks: Masks, pattern: AttentionPattern, position_BF: Tensor, end: int | None = None) -> dict[str, Any]:
    """What a forward is told of positions that see one another; those at `end` stand for nothing."""
    return masks.arguments(AttentionMask(pattern, position_BF, position_BF, end))


def close(a_BFE: Tensor, b_BFE: Tensor) -> bool:
    """Whether two computations of the same differ by the rounding of their type: at all positions, or at seven of eight
    among so many that the rounding may send one to other experts."""
    if a_BFE.shape != b_BFE.shape:
        return False
    tolerance = max(1e-4, 4 * torch.finfo(a_BFE.dtype).eps)
    is_far_T = ((a_BFE - b_BFE).abs().amax(-1) > tolerance * b_BFE.abs().max()).flatten()
    return bool(is_far_T.sum() <= (len(is_far_T) // 8 if len(is_far_T) > 32 else 0))


# What code that we do not know may raise when it is asked for what it cannot do.
ERRORS = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def refusal(question: Callable[[], str | None]) -> str | None:
    """What a question answers, or the error in which it ends."""
    try:
        return question()
    except ERRORS as error:
        return words(error)


def _plain_tokens(module: nn.Module, mask_id: int | None) -> tuple[int, int]:
    """Two tokens from the middle of the vocabulary, which no config names and whose embeddings differ."""
    get_table = getattr(module, "get_input_embeddings", None)
    table = None if get_table is None else getattr(get_table(), "weight", None)
    num = len(table) if table is not None else getattr(getattr(module, "config", None), "vocab_size", 4)
    special = special_tokens(module) | {mask_id}
    middle = sorted(range(num), key=lambda token: abs(token - num // 2))
    plain = [token for token in middle if token not in special] + [token for token in middle if token in special]
    first = plain[0]
    if table is None:
        return first, plain[1]
    return first, next((token for token in plain[1:] if not torch.equal(table[token], table[first])), plain[1])
