"""Every kernel has its peers, which compute the same; what is not installed is known as such."""

import pytest
import torch
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

from .planted_kernels import WrongCase
from .rehearsal import FakeClock

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal for machines without a GPU")


@pytest.mark.parametrize(("case", "names"), [
    (AddRMSNormCase(3, 128), ["torch eager", "Liger", "fla-core", "torch.compile"]),
    (SwiGLUCase(3, 64), ["torch eager", "Liger", "fla-core", "torch.compile"]),
    (AttentionCase(1, 1, 4, 2, 32, 64), ["torch eager", "FlexAttention", "fla-core", "torch.compile"]),
    (AttentionCase(1, 4, 4, 2, 32, 64, listed_tiles=1), ["torch eager", "torch.compile"]),
    (LMHeadCase(3, 64, 200), ["torch eager", "cuBLAS + token statistics", "torch.compile"]),
    (ExpertsCase(ExpertLoad(5, 8, 2), 64, 32), ["torch eager", "torch grouped_mm", "torch.compile"]),
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method")
@pytest.mark.parametrize("causal", [False, True])
def test_flex_attention_and_torch_compile_compute_the_same(causal: bool) -> None:
    case = AttentionCase(1, 4, 4, 2, 32, 64, causal=causal)
    for name in ("FlexAttention", "torch.compile"):
        assert timed(case, "bfloat16", name, "cpu", FakeClock())["gate"]["error"] < 0.005


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
