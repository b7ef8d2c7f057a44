"""The router of a mixture of experts: which experts each token goes to, and with what weights.

    s_x    = softmax(z)_x                softmax before the choice (DeepSeek-V2, arXiv 2405.04434; Qwen3, LLaDA-MoE)
             sigmoid(z_x)                DeepSeek-V3 (arXiv 2412.19437), LLaDA2
             softmax(z over the chosen)  softmax after the choice (gpt-oss)
    chosen = the top_k largest of s_x + b_x, within the `groups_kept` best groups; b is for the choice only
    w_a    = s of the chosen [/ their sum] * scale

A group's rank is its largest biased score where scores are a softmax (DeepSeek-V2's group_limited_greedy), the sum of
its two largest for a sigmoid (DeepSeek-V3's noaux_tc, LLaDA2). vLLM's grouped_topk makes the same difference by whether
there is a bias; in the published models the two agree, and here a bias of zeros changes nothing. Without a bias the
largest scores are the largest logits and those are compared, so that scores that round to one number are told apart.

One warp a row: top_k rounds of argmax need no barrier, and give the index and the lowest one on ties. With few rows one
program takes all and sorts their assignments by expert as well (moe_assignments).
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from .case import Case, Cost
from .checks import check_instance, integer_field, real_field
from .dispatch import kernel, launch
from .tensor_checks import assert_contiguous, check_rank, check_shape


class Scoring(Enum):
    """What becomes of a token's logits."""

    SOFTMAX = "softmax"
    SOFTMAX_OF_CHOSEN = "softmax_of_chosen"
    SIGMOID = "sigmoid"


@dataclass(frozen=True)
class Routing:
    """How experts are chosen and weighted. Experts lie in `num_groups` groups of neighbours, of which each token sees
    the best `groups_kept`. `renormalise` makes a token's weights sum to one before they are scaled."""

    top_k: int
    scoring: Scoring = Scoring.SOFTMAX
    num_groups: int = 1
    groups_kept: int = 1
    renormalise: bool = False
    scale: float = 1.0

    def __post_init__(self) -> None:
        integer_field(self, "top_k")
        check_instance("scoring", self.scoring, Scoring)
        integer_field(self, "num_groups")
        integer_field(self, "groups_kept", at_most=self.num_groups)
        check_instance("renormalise", self.renormalise, bool)
        real_field(self, "scale", above=0)

    @property
    def by_pairs(self) -> bool:
        """Whether a group's rank is the sum of its two largest scores."""
        return self.scoring is Scoring.SIGMOID

    def check_experts(self, num_experts: int) -> None:
        """ValueError unless so many experts can be grouped and chosen from like this."""
        if num_experts % self.num_groups:
            raise ValueError(f"num_groups={self.num_groups}: must divide the number of experts, {num_experts}")
        seen = num_experts // self.num_groups * self.groups_kept
        if self.top_k > seen:
            raise ValueError(f"top_k={self.top_k}: must be at most the {seen} experts of the groups kept")

    def compares_logits(self, biased: bool) -> bool:
        """Whether the logits alone, without their scores, order the experts and the groups."""
        if self.scoring is Scoring.SOFTMAX_OF_CHOSEN:
            return True
        return not biased and not (self.by_pairs and self.groups_kept < self.num_groups)


Largest = Callable[[Tensor, int], Tensor]
"""Where the largest of each row [T, X] are, the lowest place first on ties: int64 [T, number]."""


def _largest_by_sort(key_TX: Tensor, number: int) -> Tensor:
    return key_TX.sort(dim=1, descending=True, stable=True).indices[:, :number]


def _largest_by_topk(key_TX: Tensor, number: int) -> Tensor:
    """Several times as fast as a whole sort; but its order is that of a stable sort only where there are no ties, which
    must be read: within one operator of PyTorch's, so that a captured step need not know."""
    if number < key_TX.shape[1]:
        value_TB, place_TB = key_TX.topk(number + 1, dim=1)
        if bool((value_TB[:, 1:] < value_TB[:, :-1]).all()):
            return place_TB[:, :number].contiguous()
    return _largest_by_sort(key_TX, number).contiguous()


_library = torch.library.Library("quicksilver", "FRAGMENT")
_library.define("largest(Tensor key, int number) -> Tensor")
_library.impl("largest", _largest_by_topk, "CPU")
_library.impl("largest", lambda key_TX, number: key_TX.new_empty((len(key_TX), number), dtype=torch.int64), "Meta")


def reference(logits_TX: Tensor, bias_X: Tensor | None, routing: Routing) -> tuple[Tensor, Tensor]:
    """The experts of each row of router logits [T, X] (any float dtype): expert_TA int32 [T, top_k], best first and the
    lowest index on ties, and weight_TA float32 (float64 for float64 logits). bias_X [X] is added for the choice only. A
    logit of -inf comes after all others whatever its bias; a row of them gives the lowest experts with weights of zero.
    ValueError where the routing does not suit X experts. Differentiable in PyTorch."""
    return _routed(logits_TX, bias_X, routing, _largest_by_sort)


def _routed(logits_TX: Tensor, bias_X: Tensor | None, routing: Routing, largest: Largest) -> tuple[Tensor, Tensor]:
    logits_TX = logits_TX.to(torch.promote_types(logits_TX.dtype, torch.float32))
    score_TX = logits_TX
    if routing.scoring is Scoring.SOFTMAX:
        score_TX = _softmax(logits_TX)
    elif routing.scoring is Scoring.SIGMOID:
        score_TX = logits_TX.sigmoid()
    key_TX = (logits_TX if routing.compares_logits(bias_X is not None) else score_TX).detach()
    if bias_X is not None:
        key_TX = (key_TX + bias_X.to(key_TX.dtype)).masked_fill(logits_TX == -torch.inf, -torch.inf)
    expert_TA = _chosen(key_TX, routing, largest)
    weight_TA = score_TX.gather(1, expert_TA)
    if routing.scoring is Scoring.SOFTMAX_OF_CHOSEN:
        weight_TA = _softmax(weight_TA)
    if routing.renormalise:
        weight_TA = weight_TA / weight_TA.sum(-1, keepdim=True).clamp(min=torch.finfo(weight_TA.dtype).tiny)
    return expert_TA.int(), weight_TA if routing.scale == 1 else weight_TA * routing.scale


def _chosen(key_TX: Tensor, routing: Routing, largest: Largest) -> Tensor:
    """The top_k largest keys within the best groups: int64 [T, A]."""
    if routing.groups_kept == routing.num_groups:
        return largest(key_TX, routing.top_k)
    key_TGX = key_TX.unflatten(1, (routing.num_groups, -1))
    size = key_TGX.shape[2]
    rank_TG = key_TGX.topk(min(2 if routing.by_pairs else 1, size), dim=2).values.sum(2)
    group_TG = largest(rank_TG, routing.groups_kept).sort(dim=1).values
    expert_TX = (group_TG[:, :, None] * size + torch.arange(size, device=key_TX.device)).flatten(1)
    return expert_TX.gather(1, largest(key_TX.gather(1, expert_TX), routing.top_k))


def _softmax(logits: Tensor) -> Tensor:
    """Softmax over the last dimension that gives zeros, not NaN, where all is -inf."""
    return logits.softmax(-1).masked_fill(logits.detach().amax(-1, keepdim=True) == -torch.inf, 0)


def check(logits_TX: Tensor, bias_X: Tensor | None, routing: Routing) -> None:
    """ValueError unless the logits can be routed so."""
    check_rank("logits_TX", logits_TX, 2)
    check_shape("bias_X", bias_X, logits_TX.shape[1])
    routing.check_experts(logits_TX.shape[1])


@kernel(reference, check=check, cpu=partial(_routed, largest=torch.ops.quicksilver.largest))
def route(logits_TX: Tensor, bias_X: Tensor | None, routing: Routing) -> tuple[Tensor, Tensor]:
    num_rows, top_k, device = len(logits_TX), routing.top_k, logits_TX.device
    expert_TA = torch.empty((num_rows, top_k), dtype=torch.int32, device=device)
    weight_TA = torch.empty((num_rows, top_k), dtype=torch.float32, device=device)
    launch_route(logits_TX, bias_X, routing, expert_TA, weight_TA)
    return expert_TA, weight_TA


def padded_experts(num_experts: int, routing: Routing) -> int:
    """Lanes of a row: each group's experts, padded, in padded groups."""
    groups, group_size = routing.num_groups, num_experts // routing.num_groups
    return triton.next_power_of_2(groups) * triton.next_power_of_2(group_size)


def launch_route(logits_TX: Tensor, bias_X: Tensor | None, routing: Routing, expert_TB: Tensor, weight_TB: Tensor,
                 sorted_by_expert: tuple[Tensor, Tensor] | None = None) -> None:
    """Write the experts and weights of each row, int32 and float32 [T, B]; with B = top_k + 1 each row also takes the
    expert of index X, the shared one, with a weight of 1. With `sorted_by_expert`, one program writes there the order
    int32 [T B] and the counts int32 [X + B - top_k] that `sort_by_expert` gives of these experts."""
    assert_contiguous(logits_TX=logits_TX, bias_X=bias_X)
    (num_rows, num_experts), top_k, num_groups = logits_TX.shape, routing.top_k, routing.num_groups
    group_size, num_lanes = num_experts // num_groups, padded_experts(num_experts, routing)
    order_P, count_Y = sorted_by_expert or (None, None)
    rows = 1 if order_P is None else triton.next_power_of_2(num_rows)
    launch(_route_kernel, (triton.cdiv(num_rows, rows),), logits_TX, bias_X, expert_TB, weight_TB, order_P, count_Y,
           num_rows, num_experts, group_size, routing.scale, TOP_K=top_k, HAS_SHARED=expert_TB.shape[1] > top_k,
           SOFTMAX=routing.scoring is Scoring.SOFTMAX, SIGMOID=routing.scoring is Scoring.SIGMOID,
           COMPARES_LOGITS=routing.compares_logits(bias_X is not None), NUM_GROUPS=num_groups,
           GROUPS_KEPT=routing.groups_kept, BY_PAIRS=routing.by_pairs and group_size > 1,
           RENORMALISE=routing.renormalise, ROWS=rows, BLOCK_GROUPS=triton.next_power_of_2(num_groups),
           BLOCK_SIZE=triton.next_power_of_2(group_size), BLOCK_TOP=triton.next_power_of_2(top_k),
           num_warps=min(8, max(1, rows * num_lanes // 512)))


@triton.jit(do_not_specialize=["num_rows"])
def _route_kernel(logits_ptr, bias_ptr, expert_ptr, weight_ptr, order_ptr, count_ptr, num_rows, num_experts,
                  group_size, scale, TOP_K: tl.constexpr, HAS_SHARED: tl.constexpr, SOFTMAX: tl.constexpr,
                  SIGMOID: tl.constexpr, COMPARES_LOGITS: tl.constexpr, NUM_GROUPS: tl.constexpr,
                  GROUPS_KEPT: tl.constexpr, BY_PAIRS: tl.constexpr, RENORMALISE: tl.constexpr, ROWS: tl.constexpr,
                  BLOCK_GROUPS: tl.constexpr, BLOCK_SIZE: tl.constexpr, BLOCK_TOP: tl.constexpr):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    exists = row < num_rows
    lane = tl.arange(0, BLOCK_GROUPS * BLOCK_SIZE)[None, :]
    inside = (lane // BLOCK_SIZE < NUM_GROUPS) & (lane % BLOCK_SIZE < group_size)
    index = lane // BLOCK_SIZE * group_size + lane % BLOCK_SIZE
    logit = tl.load(logits_ptr + row.to(tl.int64) * num_experts + index, mask=exists & inside, other=float("-inf"))
    logit = logit.to(tl.float32)
    score = logit
    if SOFTMAX:
        score = tl.exp(logit - _finite(tl.max(logit, axis=1, keep_dims=True)))
        score = score / _nonzero(tl.sum(score, axis=1, keep_dims=True))
    if SIGMOID:
        tail = tl.exp(-tl.abs(logit))
        score = tl.where(logit >= 0, 1.0, tail) / (1.0 + tail)
    key = logit if COMPARES_LOGITS else score
    if bias_ptr is not None:
        key += tl.load(bias_ptr + index, mask=inside, other=0).to(tl.float32)
        key = tl.where(logit == float("-inf"), float("-inf"), key)
    # NaN comes last, so that the experts of a row differ even then.
    key = tl.where(key == key, key, float("-inf"))
    # What may still be chosen is kept apart from the keys, which may be -inf themselves.
    free = tl.broadcast_to(inside.to(tl.int32), (ROWS, BLOCK_GROUPS * BLOCK_SIZE))
    if GROUPS_KEPT < NUM_GROUPS:
        group, member = tl.arange(0, BLOCK_GROUPS)[None, :], tl.arange(0, BLOCK_SIZE)[None, None, :]
        masked = tl.where(inside, key, float("-inf")).reshape(ROWS, BLOCK_GROUPS, BLOCK_SIZE)
        rank = tl.max(masked, axis=2)
        if BY_PAIRS:
            best = tl.min(tl.where(masked == tl.expand_dims(rank, 2), member, BLOCK_SIZE), axis=2)
            masked = tl.where(member == tl.expand_dims(best, 2), float("-inf"), masked)
            rank = rank + tl.max(masked, axis=2)  # pyright: ignore[reportOperatorIssue]
        out = tl.broadcast_to((group < NUM_GROUPS).to(tl.int32), (ROWS, BLOCK_GROUPS))
        for _ in range(GROUPS_KEPT):
            top = tl.max(tl.where(out > 0, rank, float("-inf")), axis=1, keep_dims=True)
            chosen = tl.min(tl.where((out > 0) & (rank == top), group, BLOCK_GROUPS), axis=1, keep_dims=True)
            out = tl.where(group == chosen, 0, out)
        out = tl.broadcast_to(out[:, :, None], (ROWS, BLOCK_GROUPS, BLOCK_SIZE))
        free = tl.where(out.reshape(ROWS, BLOCK_GROUPS * BLOCK_SIZE) > 0, 0, free)
    slot = tl.arange(0, BLOCK_TOP)[None, :]
    chosen_expert = tl.zeros([ROWS, BLOCK_TOP], dtype=tl.int32)
    chosen_score = tl.full([ROWS, BLOCK_TOP], float("-inf"), dtype=tl.float32)
    slot_of_expert = tl.full([ROWS, BLOCK_GROUPS * BLOCK_SIZE], -1, dtype=tl.int32)
    for place in range(TOP_K):
        top = tl.max(tl.where(free > 0, key, float("-inf")), axis=1, keep_dims=True)
        chosen = tl.min(tl.where((free > 0) & (key == top), index, num_experts - 1), axis=1, keep_dims=True)
        here = inside & (index == chosen)
        free = tl.where(here, 0, free)
        slot_of_expert = tl.where(here, place, slot_of_expert)
        chosen_expert = tl.where(slot == place, chosen, chosen_expert)
        found = tl.sum(tl.where(here, score, 0.0), axis=1, keep_dims=True)
        chosen_score = tl.where(slot == place, found, chosen_score)
    used = slot < TOP_K
    if not SOFTMAX and not SIGMOID:
        chosen_score = tl.exp(chosen_score - _finite(tl.max(chosen_score, axis=1, keep_dims=True)))
        chosen_score = chosen_score / _nonzero(tl.sum(chosen_score, axis=1, keep_dims=True))
    if RENORMALISE:
        kept = tl.sum(tl.where(used, chosen_score, 0.0), axis=1, keep_dims=True)
        chosen_score = chosen_score / _nonzero(kept)
    width = TOP_K + 1 if HAS_SHARED else TOP_K
    first = row.to(tl.int64) * width
    tl.store(expert_ptr + first + slot, chosen_expert, mask=exists & used)
    tl.store(weight_ptr + first + slot, chosen_score * scale, mask=exists & used)
    if HAS_SHARED:
        tl.store(expert_ptr + first + TOP_K, row * 0 + num_experts, mask=exists)
        tl.store(weight_ptr + first + TOP_K, tl.full([ROWS, 1], 1.0, tl.float32), mask=exists)
    if order_ptr is not None:
        # A row has an expert once at most: its rows before this one are its assignments before this one.
        is_chosen = (exists & (slot_of_expert >= 0)).to(tl.int32)
        count = tl.sum(is_chosen, axis=0, keep_dims=True)
        place = tl.cumsum(count, axis=1) - count + tl.cumsum(is_chosen, axis=0) - is_chosen
        tl.store(order_ptr + place, row * width + slot_of_expert, mask=is_chosen > 0)
        tl.store(count_ptr + index, count, mask=inside)
        if HAS_SHARED:
            tl.store(order_ptr + num_rows * TOP_K + row, row * width + TOP_K, mask=exists)
            tl.store(count_ptr + num_experts, num_rows)


@triton.jit
def _finite(peak):
    return tl.where(peak == float("-inf"), 0.0, peak)


@triton.jit
def _nonzero(total):
    return tl.where(total == 0, 1.0, total)


@dataclass(frozen=True)
class RouterCase(Case):
    """The choice of experts of `rows` tokens from logits, with a bias where scores are sigmoids."""

    rows: int
    num_experts: int
    routing: Routing
    run = staticmethod(route)
    reference = staticmethod(reference)

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor | None, Routing]:
        logits_TX = torch.randn(self.rows, self.num_experts, dtype=dtype, device=device)
        biased = self.routing.scoring is Scoring.SIGMOID
        return logits_TX, 0.1 * torch.randn(self.num_experts, device=device) if biased else None, self.routing

    def cost(self, dtype: torch.dtype) -> Cost:
        return Cost(self.rows * (self.num_experts * dtype.itemsize + 8 * self.routing.top_k))
