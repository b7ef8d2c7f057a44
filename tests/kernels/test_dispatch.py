"""Which implementation runs, what is recorded of it, and what compilers and fake tensors see."""

import importlib
from enum import Enum
from pathlib import Path

import pytest
import torch
from quicksilver.kernels import dispatch
from quicksilver.kernels.case import with_tensors
from quicksilver.kernels.dispatch import Implementation, launch, named, note, recording, using
from quicksilver.kernels.moe_router import Routing, route
from quicksilver.kernels.rms_norm import add_rms_norm, reference, rms_norm
from quicksilver.kernels.rotate_and_store import QKNorm, Rope, rotate_and_store
from quicksilver.kernels.swiglu import swiglu
from torch._subclasses.fake_tensor import FakeTensorMode

from ..strict_device import rehearsal
from .comparison import on_device


class Algorithm(Enum):
    SLOW = "a slow one"
    FAST = "a fast one"


ROOT = Path(__file__).resolve().parents[2]
X, WEIGHT = torch.randn(3, 8), torch.rand(8)
QKV = X[None, :, None].repeat(1, 1, 3, 1)
ROPE = Rope(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 0), torch.zeros(1, 0))


def test_the_device_decides_unless_something_is_chosen() -> None:
    with recording() as ran:
        rms_norm(X, WEIGHT, 1e-5)
    assert ran == {("rms_norm", Implementation.CPU)}
    with using(Implementation.TRITON), recording() as ran:
        rms_norm(on_device(X), on_device(WEIGHT), 1e-5)
        with using(None):
            swiglu(X)
    assert ran == {("rms_norm", Implementation.TRITON), ("swiglu", Implementation.CPU)}


def test_a_cpu_runs_its_own_implementation_unless_told_otherwise() -> None:
    for setting, expected in ((None, Implementation.CPU), (Implementation.CPU, Implementation.CPU),
                              (Implementation.REFERENCE, Implementation.REFERENCE)):
        with using(setting), recording() as ran:
            route(X, None, Routing(2))
            rotate_and_store(QKV, 1, ROPE, None, None)
        assert ran == {("route", expected), ("rotate_and_store", Implementation.REFERENCE)}


def test_tensors_without_values_get_the_reference() -> None:
    with using(Implementation.CPU), recording() as ran:
        route(X.to("meta"), None, Routing(2))
        with FakeTensorMode() as mode:
            route(mode.from_tensor(X), None, Routing(2))
    assert ran == {("route", Implementation.REFERENCE)}


def test_a_cpu_implementation_is_refused_on_a_gpu() -> None:
    with rehearsal(), using(Implementation.CPU), pytest.raises(ValueError, match="kernels=cpu with tensors on cuda"):
        rms_norm(X.to("cuda"), WEIGHT.to("cuda"), 1e-5)


def test_what_ran_is_named_for_each_kernel_and_wholly_where_it_was_several() -> None:
    with recording() as ran:
        rms_norm(X, WEIGHT, 1e-5)
        swiglu(X)
        with using(Implementation.TRITON):
            swiglu(on_device(X))
        for what in (Implementation.CPU, Algorithm.SLOW, Algorithm.FAST, Implementation.TRITON):
            note("experts", what)
    assert named(ran) == {"experts": "cpu (a fast one, a slow one), triton", "rms_norm": "cpu",
                          "swiglu": "cpu, triton"}


def test_a_choice_ends_with_its_block_even_after_an_error() -> None:
    with pytest.raises(RuntimeError), using(Implementation.TRITON):
        raise RuntimeError
    with recording() as ran:
        rms_norm(X, WEIGHT, 1e-5)
    assert ran == {("rms_norm", Implementation.CPU)}


def test_a_gradient_takes_pytorch_for_a_kernel_without_backward() -> None:
    x, weight = on_device(X), on_device(WEIGHT).clone().requires_grad_()
    with using(Implementation.TRITON), recording() as ran:
        rms_norm(x, weight, 1e-5).sum().backward()
        with torch.no_grad():
            add_rms_norm(x, x, weight, 1e-5)
    pytorch = Implementation.REFERENCE if x.is_cuda else Implementation.CPU
    assert ran == {("rms_norm", pytorch), ("add_rms_norm", Implementation.TRITON)}
    assert weight.grad is not None


def test_a_gradient_of_a_tensor_within_an_argument_counts() -> None:
    weight = on_device(WEIGHT).clone().requires_grad_()
    with using(Implementation.TRITON), recording() as ran:
        rotate_and_store(on_device(QKV), 1, with_tensors(ROPE, on_device), QKNorm(weight, weight, 1e-5), None)
    assert ran == {("rotate_and_store", Implementation.REFERENCE)}


def test_keywords_count_as_arguments() -> None:
    weight = WEIGHT.clone().requires_grad_()
    with using(Implementation.TRITON), recording() as ran:
        rms_norm(eps=1e-5, weight_E=weight, x=X).sum().backward()
    assert ran == {("rms_norm", Implementation.CPU)}
    torch.testing.assert_close(rms_norm(eps=1e-5, weight_E=WEIGHT, x=X), reference(X, WEIGHT, 1e-5))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs what the interpreter cannot")
def test_triton_is_refused_where_nothing_could_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "INTERPRETED", False)
    with pytest.raises(ValueError, match="kernels=triton: there is no GPU"), using(Implementation.TRITON):
        pass


@pytest.mark.parametrize("name", ["cuda", "", "Triton"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"kernels='{name}': must be one of auto, reference, cpu, triton"):
        Implementation.named(name)


def test_names_of_the_setting() -> None:
    assert [Implementation.named(name) for name in ("auto", "reference", "cpu", "triton")] == [None, *Implementation]


def test_torch_compile_traces_the_reference_without_a_break() -> None:
    compiled = torch.compile(lambda x, weight: 2 * rms_norm(x, weight, 1e-5), backend="eager", fullgraph=True)
    with using(Implementation.TRITON):
        torch.testing.assert_close(compiled(X, WEIGHT), 2 * reference(X, WEIGHT, 1e-5))


def test_fake_tensors_get_shapes_without_a_launch() -> None:
    with using(Implementation.TRITON), FakeTensorMode() as mode:
        found = rms_norm(mode.from_tensor(X), mode.from_tensor(WEIGHT), 1e-5)
    assert found.shape == X.shape


def test_an_empty_grid_launches_nothing() -> None:
    class Program:
        def __getitem__(self, grid: tuple[int, ...]) -> None:
            raise AssertionError("launched")

    launch(Program(), (0, 3), X)


def _modules_with_kernels() -> list[str]:
    return [path.stem for path in sorted((ROOT / "kernels").glob("*.py")) if "\n@kernel(" in path.read_text()]


@pytest.mark.parametrize("name", _modules_with_kernels())
def test_every_kernel_has_cases_and_tests_of_its_own(name: str) -> None:
    module = importlib.import_module(f"quicksilver.kernels.{name}")
    assert module.__doc__
    assert (ROOT / "conf" / "kernel" / f"{name}.yaml").exists()
    assert (ROOT / "tests" / "kernels" / f"test_{name}.py").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").glob("*.py")), ids=lambda path: path.stem)
def test_launchers_allocate_where_the_tests_can_poison(path: Path) -> None:
    source = path.read_text()
    if "\n@kernel(" in source:
        launchers = source.partition("\n@kernel(")[2].partition("\nclass ")[0]
        assert not any(name in launchers for name in ("empty_like(", "new_empty(", "zeros_like(", "new_zeros("))
