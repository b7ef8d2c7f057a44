import pytest
import torch
import torch.nn.functional as F
from quicksilver.kernels import packed_linear
from quicksilver.kernels.dispatch import Implementation, named, recording, using
from quicksilver.kernels.packed_linear import LEAST_BYTES, PackedWeight, linear
from torch import Tensor

K = 512
N = LEAST_BYTES[torch.float32] // (4 * K)  # the smallest weight that is packed
PACKED, LIBRARY = "cpu (weights packed by oneDNN)", "F.linear"


@pytest.fixture(autouse=True)
def any_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor whose products of one row are packed too."""
    monkeypatch.setattr(packed_linear, "_IS_INTEL", False)
    monkeypatch.setattr(packed_linear, "_HAS_AVX512", True)


def weight(n: int = N, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, K, generator=torch.Generator().manual_seed(0)).to(dtype) / K**0.5


def packed(weight_NK: Tensor) -> PackedWeight:
    made = PackedWeight.of(weight_NK)
    assert made is not None
    return made


def multiplied(x: Tensor, weight_NK: Tensor, held: PackedWeight | None) -> tuple[Tensor, str]:
    """The product without a gradient, and what ran in a record's words."""
    with torch.no_grad(), recording() as ran:
        found = linear(x, weight_NK, None, held)
    return found, named(ran).get("linear", LIBRARY)


@pytest.mark.parametrize("num_rows", [1, 2, 7, 64])
@pytest.mark.parametrize("has_bias", [False, True])
def test_it_is_the_product(num_rows: int, has_bias: bool) -> None:
    weight_NK, x_1MK = weight(), torch.randn(1, num_rows, K)
    bias_N = torch.randn(N) if has_bias else None
    with torch.inference_mode():
        found = linear(x_1MK, weight_NK, bias_N, packed(weight_NK))
    expected = F.linear(x_1MK.double(), weight_NK.double(), None if bias_N is None else bias_N.double())
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=0)


def test_rows_have_the_same_bits_for_any_number_of_them_but_one() -> None:
    weight_NK, x_MK = weight(), torch.randn(96, K)
    held = packed(weight_NK)
    all_rows, _ = multiplied(x_MK, weight_NK, held)
    for num_rows in (2, 3, 8, 17, 64):
        assert torch.equal(multiplied(x_MK[:num_rows], weight_NK, held)[0], all_rows[:num_rows])


def test_a_small_weight_or_one_elsewhere_is_not_packed() -> None:
    assert PackedWeight.of(weight(N - 1)) is None
    assert PackedWeight.of(torch.empty(N, K, device="meta")) is None
    with torch.inference_mode():
        assert PackedWeight.of(torch.ones(N, K)) is None  # it would not tell that it was changed


def test_without_the_operator_or_the_instructions_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PackedWeight.of(weight(2 * N, torch.float64)) is None  # oneDNN packs none
    monkeypatch.setattr(packed_linear, "_HAS_OPERATOR", False)
    assert PackedWeight.of(weight()) is None


def test_a_weight_that_has_changed_or_moved_is_multiplied_as_it_is() -> None:
    weight_NK, x_MK = weight(), torch.randn(3, K)
    held = packed(weight_NK)
    assert multiplied(x_MK, weight_NK, held)[1] == PACKED
    weight_NK.mul_(2)
    found, what = multiplied(x_MK, weight_NK, held)
    assert what == LIBRARY
    assert torch.equal(found, F.linear(x_MK, weight_NK))
    held = packed(weight_NK)
    weight_NK.data = torch.zeros(N, K)
    found, what = multiplied(x_MK, weight_NK, held)
    assert (what, found.count_nonzero()) == (LIBRARY, 0)


def test_gradients_autocast_and_the_reference_take_the_library() -> None:
    weight_NK, x_MK = weight().requires_grad_(), torch.randn(3, K)
    held = packed(weight_NK)
    linear(x_MK, weight_NK, None, held).sum().backward()
    assert weight_NK.grad is not None
    with using(Implementation.REFERENCE):
        assert multiplied(x_MK, weight_NK, held)[1] == LIBRARY
    with torch.autocast("cpu", torch.bfloat16):
        found, what = multiplied(x_MK, weight_NK, held)
    assert (found.dtype, what) == (torch.bfloat16, LIBRARY)
    assert multiplied(x_MK, weight_NK, None)[1] == LIBRARY
    assert multiplied(x_MK, weight_NK, held)[1] == PACKED


@pytest.mark.parametrize(("is_intel", "has_avx512", "factor", "model_megabytes", "paying"), [
    (True, True, 1, 99, [16, 127]), (True, False, 1, 99, []), (False, True, 1, 0, [1, 2, 15, 16, 127, 128]),
    (False, False, 1, 16, [2, 15, 16, 127]), (False, False, 6, 0, [1, 2, 15, 16, 127]),
    (False, False, 1, 17, [1, 2, 15, 16, 127]), (False, False, 0.5, 17, [2, 15, 16, 127]),
    (False, False, 0.5, 16, []), (True, True, 0.5, 17, [])])
def test_numbers_of_rows_that_do_not_pay_on_the_processor_take_the_library(
        monkeypatch: pytest.MonkeyPatch, is_intel: bool, has_avx512: bool, factor: float, model_megabytes: int,
        paying: list[int]) -> None:
    monkeypatch.setattr(packed_linear, "_IS_INTEL", is_intel)
    monkeypatch.setattr(packed_linear, "_HAS_AVX512", has_avx512)
    weight_NK, x_MK = weight(int(factor * N)), torch.randn(128, K)
    held = PackedWeight.of(weight_NK, model_megabytes << 20)
    assert (held is None) == (not paying)
    assert [num_rows for num_rows in (1, 2, 15, 16, 127, 128)
            if multiplied(x_MK[:num_rows], weight_NK, held)[1] == PACKED] == paying


def test_a_compiled_product_is_the_librarys() -> None:
    weight_NK, x_MK = weight(), torch.randn(3, K)
    held = packed(weight_NK)
    with torch.no_grad():
        compiled = torch.compile(lambda x: linear(x, weight_NK, None, held), backend="eager", fullgraph=True)
        assert torch.equal(compiled(x_MK), F.linear(x_MK, weight_NK))
