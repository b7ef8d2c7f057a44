"""Every kernel has its peers, which compute the same; what is not installed is known as such."""

import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from quicksilver.experiments.kernel_bench.competitors import OURS, Peer, contender, peers
from quicksilver.experiments.kernel_bench.timing import timed
from quicksilver.kernels.attention import AttentionCase
from quicksilver.kernels.case import Case
from quicksilver.kernels.lm_head_statistics import LMHeadCase
from quicksilver.kernels.moe_experts import ExpertsCase
from quicksilver.kernels.moe_layer import LayerCase
from quicksilver.kernels.moe_router import Routing
from quicksilver.kernels.moe_sort import ExpertLoad
from quicksilver.kernels.rms_norm import AddRMSNormCase
from quicksilver.kernels.swiglu import SwiGLUCase
from torch import Tensor

from .planted_kernels import WrongCase
from .rehearsal import FakeClock

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal for machines without a GPU")


@pytest.mark.parametrize(("case", "names"), [
    (AddRMSNormCase(3, 128), ["torch eager", "Liger", "fla-core", "torch.compile"]),
    (SwiGLUCase(3, 64), ["torch eager", "Liger", "fla-core", "FlashInfer", "torch.compile"]),
    (AttentionCase(1, 1, 4, 2, 32, 64),
     ["torch eager", "FlexAttention", "FlashAttention-3", "FlashInfer", "fla-core", "torch.compile"]),
    (AttentionCase(2, 3, 4, 2, 32, 64), ["torch eager", "FlexAttention", "FlashAttention-3", "torch.compile"]),
    (AttentionCase(1, 4, 4, 2, 32, 64, listed_tiles=1), ["torch eager", "torch.compile"]),
    (LMHeadCase(3, 64, 200), ["torch eager", "cuBLAS + token statistics", "torch.compile"]),
    (ExpertsCase(ExpertLoad(5, 8, 2), 64, 32),
     ["torch eager", "torch grouped_mm", "vLLM fused_experts", "triton_kernels", "torch.compile"]),
    (LayerCase(ExpertLoad(5, 8, 2), 64, 32, Routing(2), 16), ["torch eager", "torch grouped_mm", "torch.compile"]),
    (WrongCase(1.0, 0), ["torch eager", "torch.compile"]),
], ids=lambda value: type(value).__name__ if not isinstance(value, list) else "")
def test_a_kernel_has_its_peers_and_those_that_need_no_compiler_compute_the_same(case: Case, names: list[str]) -> None:
    assert [peer.name for peer in peers(case)] == names
    for peer in peers(case):
        if peer.package is None and peer.name not in ("torch.compile", "FlexAttention"):
            row = timed(case, "bfloat16", peer.name, "cpu", FakeClock())
            assert row["gate"]["error"] < 0.01
            assert row["flushed_us"] == pytest.approx([10.0, 9.4, 11.2])


def _attended(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """What these packages document: grouped queries [B, F, H, D], the last of which sees all keys."""
    k, v = (x.repeat_interleave(q.shape[2] // k.shape[2], dim=2) for x in (k, v))
    sees = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool)
    sees = sees.tril(k.shape[1] - q.shape[1]) if causal else sees
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=sees).transpose(1, 2)


def _silu_and_mul(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def _fused_experts(hidden_states: Tensor, w1: Tensor, w2: Tensor, topk_weights: Tensor, topk_ids: Tensor) -> Tensor:
    return ExpertsCase.reference(hidden_states, w1, w2, topk_ids, topk_weights)


def _attended_alone(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    return _attended(q[None], k[None], v[None], causal)[0]


@dataclass(frozen=True)
class _Indices:
    src_indx: Tensor
    dst_indx: Tensor


@dataclass(frozen=True)
class _RoutingData:
    gate_scal: Tensor
    expt_hist: Tensor
    n_expts_tot: int
    n_expts_act: int
    expt_data: Tensor


def _matmul_ogs(x: Tensor, w: Tensor, bias: None, routing_data: _RoutingData, gather_indx: _Indices | None = None,
                scatter_indx: _Indices | None = None, gammas: Tensor | None = None) -> Tensor:
    """Rows sorted by expert times its matrix [K, N]; gathered from their tokens before, or weighted and summed over a
    token's experts after."""
    assert routing_data.expt_data.tolist() == routing_data.expt_hist.tolist()
    if gather_indx is not None:
        assert torch.equal(gather_indx.dst_indx[gather_indx.src_indx], torch.arange(len(gather_indx.src_indx)))
        x = x[gather_indx.src_indx // routing_data.n_expts_act]
    parts = x.split(routing_data.expt_hist.tolist())
    y = torch.cat([part @ matrix for part, matrix in zip(parts, w, strict=True)])
    if scatter_indx is None:
        return y
    assert gammas is not None
    y = (y.float() * gammas[:, None])[scatter_indx.src_indx]
    return y.unflatten(0, (-1, routing_data.n_expts_act)).sum(1).to(x.dtype)


STAND_INS = {
    "triton_kernels.matmul_ogs": {"matmul_ogs": _matmul_ogs},
    "triton_kernels.routing": {"RoutingData": _RoutingData, "GatherIndx": _Indices, "ScatterIndx": _Indices,
                               "compute_expt_data": lambda hist, n_expts_tot, n_gates: hist},
    "flash_attn_interface": {"flash_attn_func": _attended},
    "flashinfer": {"single_prefill_with_kv_cache": _attended_alone, "silu_and_mul": _silu_and_mul},
    "vllm.model_executor.layers.fused_moe": {"fused_experts": _fused_experts}}


@pytest.mark.parametrize(("case", "name"), [
    (AttentionCase(2, 3, 4, 2, 32, 64, causal=True), "FlashAttention-3"),
    (AttentionCase(1, 3, 4, 2, 32, 64, causal=True), "FlashInfer"), (AttentionCase(1, 1, 4, 2, 32, 64), "FlashInfer"),
    (SwiGLUCase(3, 64), "FlashInfer"), (ExpertsCase(ExpertLoad(5, 8, 2), 64, 32), "vLLM fused_experts"),
    (ExpertsCase(ExpertLoad(5, 8, 2), 64, 32), "triton_kernels")], ids=str)
def test_packages_that_are_not_here_are_called_as_they_document(
        case: Case, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, functions in STAND_INS.items():
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(**functions))
    row = timed(case, "bfloat16", name, "cpu", FakeClock())
    assert row["gate"]["error"] < 0.01


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method")
@pytest.mark.parametrize("causal", [False, True])
def test_flex_attention_and_torch_compile_compute_the_same(causal: bool) -> None:
    case = AttentionCase(1, 4, 4, 2, 32, 64, causal=causal)
    for name in ("FlexAttention", "torch.compile"):
        assert timed(case, "bfloat16", name, "cpu", FakeClock())["gate"]["error"] < 0.005


def test_another_interface_of_a_package_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("triton_kernels.matmul_ogs", "triton_kernels.routing"):
        monkeypatch.setitem(sys.modules, module, SimpleNamespace())
    with pytest.raises(AttributeError, match="matmul_ogs"):
        timed(ExpertsCase(ExpertLoad(5, 8, 2), 64, 32), "bfloat16", "triton_kernels", "cpu", FakeClock())


def test_a_contender_is_the_kernel_or_the_peer_of_that_name() -> None:
    case = WrongCase(2.0, 0)  # whose kernel is not its reference
    assert contender(case, OURS) == case.run
    assert contender(case, "torch eager") == case.reference


def test_a_peer_is_installed_if_its_package_can_be_imported() -> None:
    case = AddRMSNormCase(3, 128)
    build = peers(case)[0].build
    assert Peer("ours", build).is_installed
    assert Peer("theirs", build, "torch").is_installed
    assert not Peer("theirs", build, "a_package_that_nobody_has").is_installed
