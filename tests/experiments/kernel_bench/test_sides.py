"""A side runs what it says, in the process that samples it."""

from pathlib import Path

import pytest
import torch
from quicksilver.experiments.kernel_bench import sides, timing
from quicksilver.experiments.kernel_bench.sides import Side, changed, prepare, sample
from quicksilver.kernels.rms_norm import AddRMSNormCase

from .planted_kernels import WrongCase

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal for machines without a GPU")
BOTH = [Side("reference"), Side("triton")]


@pytest.fixture(autouse=True)
def small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the machine that tests is not asked."""
    monkeypatch.setattr(timing, "cache_bytes", lambda: 0)
    monkeypatch.setattr(timing, "_LEAST_CACHE_BYTES", 1)
    monkeypatch.setattr(sides, "_prepared", [])


def test_the_sides_of_a_process_run_their_own_implementation_on_the_same_inputs() -> None:
    about = prepare(BOTH, AddRMSNormCase(2, 16), "float32", "cpu")
    assert [set(gate["kernels"].values()) for gate in about["gates"]] == [{"reference"}, {"triton"}]
    assert about["num_input_sets"] == 4
    assert min(sample(0), sample(1)) > 0
    assert changed("float32") == []


def test_what_is_wrong_or_too_large_is_not_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    about = prepare(BOTH, WrongCase(1.01, 0), "float32", "cpu")
    assert about["failed"] == "wrong result: not timed"
    monkeypatch.setattr(sides, "too_large", lambda case, dtype: "too much")
    assert prepare(BOTH, AddRMSNormCase(2, 16), "float32", "cpu") == {"skipped": "too much"}


def test_a_result_that_changes_is_told_of_its_side(monkeypatch: pytest.MonkeyPatch) -> None:
    case = AddRMSNormCase(2, 16)
    prepare(BOTH, case, "float32", "cpu")
    (ready,) = sides._prepared
    ready.before[1] = [tensor + 1 for tensor in ready.before[1]]
    assert changed("float32") == ["triton"]


def test_another_checkout_gives_its_kernels_and_this_one_all_else(tmp_path: Path) -> None:
    (tmp_path / "other" / "kernels").mkdir(parents=True)
    (path,) = Side("auto", str(tmp_path / "other")).path(tmp_path / "made")
    package = Path(path) / "quicksilver"
    assert (package / "kernels").resolve() == tmp_path / "other" / "kernels"
    assert (package / "experiments" / "kernel_bench" / "sides.py").samefile(sides.__file__)
    assert Side("auto").path(tmp_path / "none") == []
    assert Side("auto", triton=str(tmp_path)).path(tmp_path / "none") == [str(tmp_path)]


@pytest.mark.parametrize(("side", "message"), [
    (Side("fast"), "kernels='fast'"),
    (Side("auto", checkout="nowhere"), r"a\.checkout='nowhere'.*kernels/dispatch\.py"),
    (Side("auto", triton="nowhere"), r"a\.triton='nowhere'"), (Side("auto", tiles="nowhere"), r"a\.tiles='nowhere'")])
def test_a_side_that_cannot_run_is_refused(side: Side, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        side.check("a")
