"""A position by itself: the same call whatever the batch, and the refusal of what cannot promise that."""

import pytest
import torch
from quicksilver.kernels.batch_invariance import batch_invariant, by_position, check_device, refuse_if_batch_invariant
from torch import Tensor


def _biased(x_BFE: Tensor) -> Tensor:
    """What rounds by the number of rows, more than any library does."""
    return x_BFE * 2 + x_BFE.shape[0] + 10 * x_BFE.shape[1]


def test_outside_the_setting_a_function_sees_all_positions() -> None:
    x = torch.randint(-9, 9, (3, 4, 5)).float()
    assert torch.equal(by_position(_biased, x), 2 * x + 43)


@pytest.mark.parametrize("shape", [(1, 1, 5), (3, 4, 5), (2, 7, 3, 2)], ids=str)
def test_inside_it_sees_each_position_by_itself(shape: tuple[int, ...]) -> None:
    x = torch.randint(-9, 9, shape).float()
    with batch_invariant(True):
        assert torch.equal(by_position(_biased, x), 2 * x + 11)
    with batch_invariant(False):
        assert torch.equal(by_position(_biased, x), _biased(x))


def test_tensors_may_share_a_row_or_be_missing_and_results_may_be_several() -> None:
    x, shared = torch.randn(3, 4, 5), torch.randn(1, 4, 1)
    with batch_invariant(True):
        total, left = by_position(lambda one, other, none: (one + other, other[..., 0]), x, shared, None)
    assert torch.equal(total, x + shared)
    assert torch.equal(left, shared[..., 0].expand(3, 4))


def test_what_is_called_lies_in_memory_of_its_own() -> None:
    seen = []
    with batch_invariant(True):
        by_position(lambda x: seen.append((x.data_ptr() % 64, x.is_contiguous())) or x, torch.randn(4, 3, 7).mT)
    assert set(seen) == {(0, True)}


@pytest.mark.parametrize("size", [(37, 29), (128, 344), (64, 64), (1000, 24)], ids=str)
def test_products_have_the_same_bits_for_any_number_of_rows(size: tuple[int, int]) -> None:
    layer = torch.nn.Linear(*size, bias=False)
    x_BFE = torch.randn(33, 2, size[0])
    with batch_invariant(True), torch.no_grad():
        together = by_position(layer, x_BFE)
        for num_rows in (1, 2, 3, 7, 8, 16):
            assert torch.equal(by_position(layer, x_BFE[5 : 5 + num_rows]), together[5 : 5 + num_rows])


def test_a_gpu_is_refused_with_what_depends_on_the_batch_there() -> None:
    check_device("cuda")
    with batch_invariant(True):
        check_device("cpu")
        with pytest.raises(ValueError, match=r"batch_invariant=true with device='cuda'.*cuBLAS.*attention.*experts"):
            check_device("cuda")
        with pytest.raises(ValueError, match="batch_invariant=true with this: so it is"):
            refuse_if_batch_invariant("this", "so it is")
    refuse_if_batch_invariant("this", "so it is")


def test_only_true_and_false_are_settings() -> None:
    with pytest.raises(ValueError, match="batch_invariant='yes': must be true or false"), batch_invariant("yes"):  # pyright: ignore[reportArgumentType]
        pass
