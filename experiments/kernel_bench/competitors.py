"""The peers a kernel is timed against: its reference in eager PyTorch and under torch.compile, and for some kernels
published implementations. An optional package that is not installed is recorded as such, never skipped silently.

A peer takes a case's inputs and returns what the case's `run` returns. Special peers are registered by the class name
of a case, so that a new kernel has its two general peers without an edit here.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from ...kernels import moe_router
from ...kernels.case import Case, tensors_of
from ...kernels.token_statistics import StatisticsRequest, token_statistics

OURS = "quicksilver"
Call = Callable[..., Any]


def _always(case: Any) -> bool:
    return True


@dataclass(frozen=True)
class Peer:
    """Another implementation: `build` makes it for a case that it `serves`. `package` is the import it needs, and
    `on_cpu` says whether it is timed on a CPU too."""

    name: str
    build: Callable[[Any], Call]
    package: str | None = None
    serves: Callable[[Any], bool] = _always
    on_cpu: bool = False

    @property
    def is_installed(self) -> bool:
        return self.package is None or find_spec(self.package) is not None


def peers(case: Case) -> list[Peer]:
    """The peers of a case, in order of value per time spent."""
    special = [peer for peer in _SPECIAL.get(type(case).__name__, ()) if peer.serves(case)]
    return [_EAGER, *special, _COMPILED]


def contender(case: Case, name: str) -> Call:
    """The function to time: the kernel itself, or a peer of it."""
    if name == OURS:
        return case.run
    return next(peer for peer in peers(case) if peer.name == name).build(case)


def _eager(case: Any) -> Call:
    return case.reference


def _compiled(case: Any) -> Call:
    torch.compiler.reset()  # per shape: beyond a few recompilations Dynamo silently falls back to eager
    return torch.compile(case.reference, dynamic=False)


def _flex_attention(case: Any) -> Call:
    torch.compiler.reset()
    compiled = torch.compile(flex_attention, dynamic=False)
    first_query = case.context - case.queries
    masks: list[Any] = []

    def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return first_query + query >= key

    def call(q_BFHD: Tensor, k_BCKD: Tensor, v_BCKD: Tensor, *rest: Any) -> Tensor:
        if case.causal and not masks:
            masks.append(create_block_mask(sees, None, None, case.queries, case.context, device=str(q_BFHD.device)))
        q_BHFD, k_BKCD, v_BKCD = (x.transpose(1, 2) for x in (q_BFHD, k_BCKD, v_BCKD))
        out: Any = compiled(q_BHFD, k_BKCD, v_BKCD, block_mask=masks[0] if masks else None,
                            enable_gqa=case.heads != case.kv_heads)
        return out.transpose(1, 2)

    return call


def _attends_densely(case: Any) -> bool:
    return case.listed_tiles is None


def _fla_attention(case: Any) -> Call:
    decode = importlib.import_module("fla.ops.attn.decoding").attn_decoding_one_step
    ends: list[Tensor] = []

    def call(q_BFHD: Tensor, k_BCKD: Tensor, v_BCKD: Tensor, *rest: Any) -> Tensor:
        if not ends:
            ends.append(torch.arange(case.batch + 1, device=q_BFHD.device) * case.context)
        out = decode(q_BFHD.transpose(0, 1), k_BCKD.flatten(0, 1)[None], v_BCKD.flatten(0, 1)[None],
                     cu_seqlens=ends[0])
        return out.transpose(0, 1)

    return call


def _flashinfer_attention(case: Any) -> Call:
    prefill = importlib.import_module("flashinfer").single_prefill_with_kv_cache

    def call(q_BFHD: Tensor, k_BCKD: Tensor, v_BCKD: Tensor, *rest: Any) -> Tensor:
        return prefill(q_BFHD[0], k_BCKD[0], v_BCKD[0], causal=case.causal)[None]

    return call


def _is_one_row(case: Any) -> bool:
    return case.batch == 1 and case.listed_tiles is None


def _flash_attention_3(case: Any) -> Call:
    attend = importlib.import_module("flash_attn_interface").flash_attn_func

    def call(q_BFHD: Tensor, k_BCKD: Tensor, v_BCKD: Tensor, *rest: Any) -> Tensor:
        out = attend(q_BFHD, k_BCKD, v_BCKD, causal=case.causal)
        return out[0] if isinstance(out, tuple) else out  # earlier versions give the log-sum-exp too

    return call


def _is_one_token(case: Any) -> bool:
    return case.queries == 1 and case.listed_tiles is None


def _product_then_statistics(case: Any) -> Call:
    def call(hidden_BQE: Tensor, head_VE: Tensor, banned_id: None, request: StatisticsRequest) -> tuple[Tensor, ...]:
        return tuple(tensors_of(token_statistics(hidden_BQE @ head_VE.T, request)))

    return call


def _grouped_products(case: Any) -> Call:
    """Sort the assignments by expert, two grouped products, and the weighted sum in the order of the tokens."""

    def call(x_TE: Tensor, gate_up_XGE: Tensor, down_XEM: Tensor, expert_TA: Tensor, weight_TA: Tensor) -> Tensor:
        experts = torch.arange(len(gate_up_XGE), device=x_TE.device)
        sorted_expert, order = expert_TA.flatten().sort(stable=True)
        ends = torch.searchsorted(sorted_expert, experts.to(sorted_expert.dtype), right=True).int()
        rows = x_TE[order // expert_TA.shape[1]]
        gate, up = F.grouped_mm(rows, gate_up_XGE.transpose(1, 2), offs=ends).chunk(2, dim=-1)
        rows = F.grouped_mm(F.silu(gate) * up, down_XEM.transpose(1, 2), offs=ends)
        rows = torch.empty_like(rows).index_copy_(0, order, rows).unflatten(0, expert_TA.shape)
        return (rows * weight_TA[..., None]).sum(1).to(x_TE.dtype)

    return call


def _vllm_experts(case: Any) -> Call:
    fused = importlib.import_module("vllm.model_executor.layers.fused_moe").fused_experts

    def call(x_TE: Tensor, gate_up_XGE: Tensor, down_XEM: Tensor, expert_TA: Tensor, weight_TA: Tensor) -> Tensor:
        return fused(x_TE, gate_up_XGE, down_XEM, weight_TA, expert_TA)

    return call


def _triton_kernels_experts(case: Any) -> Call:
    """Triton's own products, gathered and scattered by expert, as in its releases 3.4 and 3.5; sorting is timed with
    them. SwiGLU is PyTorch's, for theirs adds 1 to the second factor. Another interface fails, and its row says how."""
    multiply = importlib.import_module("triton_kernels.matmul_ogs").matmul_ogs
    routing = importlib.import_module("triton_kernels.routing")

    def call(x_TE: Tensor, gate_up_XGE: Tensor, down_XEM: Tensor, expert_TA: Tensor, weight_TA: Tensor) -> Tensor:
        num_experts, flat_P = len(gate_up_XGE), expert_TA.flatten()
        order_P = flat_P.sort(stable=True).indices
        place_P = torch.empty_like(order_P).scatter_(0, order_P, torch.arange(len(order_P), device=order_P.device))
        order_P, place_P = order_P.int(), place_P.int()
        count_X = torch.zeros(num_experts, dtype=torch.int32, device=x_TE.device).index_add_(
            0, flat_P, torch.ones_like(flat_P, dtype=torch.int32))
        groups = routing.RoutingData(weight_TA.flatten()[order_P], count_X, num_experts, expert_TA.shape[1],
                                     routing.compute_expt_data(count_X, num_experts, len(flat_P)))
        gate, up = multiply(x_TE, gate_up_XGE.transpose(1, 2), None, groups,
                            gather_indx=routing.GatherIndx(order_P, place_P)).chunk(2, dim=-1)
        return multiply(F.silu(gate) * up, down_XEM.transpose(1, 2), None, groups,
                        scatter_indx=routing.ScatterIndx(place_P, order_P), gammas=groups.gate_scal)

    return call


def _grouped_layer(case: Any) -> Call:
    products = _grouped_products(case)

    def call(x_TE: Tensor, router_XE: Tensor, bias_X: Tensor | None, gate_up_XGE: Tensor, down_XEM: Tensor,
             routing: Any, *shared: Tensor) -> Tensor:
        precise = torch.promote_types(x_TE.dtype, torch.float32)
        chosen = moe_router.reference(F.linear(x_TE.to(precise), router_XE.to(precise)), bias_X, routing)
        y_TE = products(x_TE, gate_up_XGE, down_XEM, *chosen)
        if not shared:
            return y_TE
        gate_TS, up_TS = F.linear(x_TE, shared[0]).chunk(2, dim=-1)
        return y_TE + F.linear(F.silu(gate_TS) * up_TS, shared[1])

    return call


def _liger_cross_entropy(case: Any) -> Call:
    module = importlib.import_module("liger_kernel.ops.fused_linear_cross_entropy")
    function = module.LigerFusedLinearCrossEntropyFunction

    def call(hidden_ME: Tensor, head_VE: Tensor, target_M: Tensor, upstream_M: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_() for tensor in (hidden_ME, head_VE)]
            nll_M = function.apply(*leaves, target_M, None, None, -100, 0.0, 0.0, "none")[0]
            return nll_M.detach(), *torch.autograd.grad(nll_M, leaves, upstream_M.to(nll_M.dtype))

    return call


def _has_gradients(case: Any) -> bool:
    return case.backward


def _liger_norm(case: Any) -> Call:
    function = importlib.import_module("liger_kernel.ops.fused_add_rms_norm").LigerFusedAddRMSNormFunction

    def call(x: Tensor, delta: Tensor, weight_E: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return function.apply(x, delta, weight_E, eps)

    return call


def _fla_norm(case: Any) -> Call:
    norm = importlib.import_module("fla.modules.norm.layernorm").rms_norm

    def call(x: Tensor, delta: Tensor, weight_E: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return norm(x, weight_E, None, residual=delta, eps=eps, prenorm=True)

    return call


def _liger_swiglu(case: Any) -> Call:
    return importlib.import_module("liger_kernel.ops.swiglu").LigerFusedGateUpSiLUMulFunction.apply


def _flashinfer_swiglu(case: Any) -> Call:
    return importlib.import_module("flashinfer").silu_and_mul


def _fla_swiglu(case: Any) -> Call:
    swiglu = importlib.import_module("fla.modules.activations").swiglu
    return lambda gate_up: swiglu(*gate_up.chunk(2, dim=-1))


_EAGER = Peer("torch eager", _eager, on_cpu=True)
_COMPILED = Peer("torch.compile", _compiled)
_SPECIAL: Mapping[str, Sequence[Peer]] = {
    "AddRMSNormCase": [Peer("Liger", _liger_norm, "liger_kernel"), Peer("fla-core", _fla_norm, "fla")],
    "AttentionCase": [Peer("FlexAttention", _flex_attention, serves=_attends_densely),
                      Peer("FlashAttention-3", _flash_attention_3, "flash_attn_interface", _attends_densely),
                      Peer("FlashInfer", _flashinfer_attention, "flashinfer", _is_one_row),
                      Peer("fla-core", _fla_attention, "fla", _is_one_token)],
    "ExpertsCase": [Peer("torch grouped_mm", _grouped_products, on_cpu=True),
                    Peer("vLLM fused_experts", _vllm_experts, "vllm"),
                    Peer("triton_kernels", _triton_kernels_experts, "triton_kernels")],
    "LayerCase": [Peer("torch grouped_mm", _grouped_layer, on_cpu=True)],
    "LMHeadCase": [Peer("cuBLAS + token statistics", _product_then_statistics)],
    "MaskedCrossEntropyCase": [Peer("Liger", _liger_cross_entropy, "liger_kernel", _has_gradients)],
    "SwiGLUCase": [Peer("Liger", _liger_swiglu, "liger_kernel"), Peer("fla-core", _fla_swiglu, "fla"),
                   Peer("FlashInfer", _flashinfer_swiglu, "flashinfer")],
}
