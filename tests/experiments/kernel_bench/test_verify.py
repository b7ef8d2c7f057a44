"""The gate lets a right kernel through and nothing else."""

import math
from types import SimpleNamespace
from typing import Any

import torch
from quicksilver.experiments.kernel_bench.verify import compared, verdict
from quicksilver.kernels.rms_norm import AddRMSNormCase

from .planted_kernels import WrongCase

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_a_right_kernel_passes_in_every_type() -> None:
    for dtype, at_most in (("float32", 1e-6), ("float16", 1e-3), ("bfloat16", 5e-3)):
        found = verdict(AddRMSNormCase(3, 130), dtype, DEVICE)
        assert found["passed"]
        assert 0 < found["error"] <= at_most
        assert found["reference_dtype"] == "float64"
        assert found["kernels"] == {"add_rms_norm": "triton"}


def test_a_wrong_result_a_wrong_integer_and_a_reference_in_disguise_fail() -> None:
    assert verdict(WrongCase(1.0, 0), "float32", "cpu")["passed"]
    wrong = verdict(WrongCase(1.001, 0), "float32", "cpu")
    assert not wrong["passed"]
    assert 0.9e-3 < wrong["error"] < 1.1e-3
    off_by_one = verdict(WrongCase(1.0, 1), "float32", "cpu")
    assert not off_by_one["passed"]
    assert off_by_one["integers_differ"] == 1
    nan = verdict(WrongCase(math.nan, 0), "float32", "cpu")
    assert not nan["passed"]
    assert nan["error"] is None


def test_what_ran_is_said_of_a_peer_and_of_a_reference_in_disguise_too() -> None:
    case = AddRMSNormCase(3, 130)
    peer = verdict(case, "float32", "cpu", case.reference)
    assert (peer["ran"], peer["kernels"], peer["passed"]) == ("a peer", {}, True)
    disguised: Any = SimpleNamespace(inputs=case.inputs, run=case.reference, reference=case.reference)
    found = verdict(disguised, "float32", "cpu")
    assert (found["ran"], found["kernels"], found["passed"]) == ("PyTorch", {}, False)


def test_infinities_must_stand_where_the_reference_has_them() -> None:
    expected = torch.tensor([1.0, -torch.inf, 2.0])
    assert compared([expected.clone()], [expected]) == (0.0, 0)
    assert compared([torch.tensor([1.0, 0.0, 2.0])], [expected]) == (math.inf, 0)
    assert compared([torch.tensor([1.0, -torch.inf, torch.nan])], [expected]) == (math.inf, 0)
    assert compared([torch.zeros(2)], [expected]) == (math.inf, 0)
    assert compared([torch.tensor([1, 2])], [torch.tensor([1, 3])]) == (0.0, 1)
