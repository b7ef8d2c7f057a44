import math

import pytest
import torch
from quicksilver.experiments.training.muon import Muon, orthogonalised
from torch import nn

SHAPES = [(12, 8), (8, 8), (8, 20), (12, 8)]


def matrices() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1e-6), (torch.float32, 2e-3)], ids=str)
def test_it_is_torchs_muon_but_for_the_precision(dtype: torch.dtype, tolerance: float) -> None:
    """torch's is in bfloat16 whatever the weights' dtype is: equal in it, near it in float32."""
    ours, theirs = matrices(), matrices()
    optimizers = Muon(ours, 0.02, dtype), torch.optim.Muon(theirs, lr=0.02, weight_decay=0.0)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other, start in zip(ours, theirs, matrices(), strict=True):
        torch.testing.assert_close(mine, other, atol=tolerance, rtol=0)
        assert not torch.allclose(mine, start, atol=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_orthogonalised_matrix_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix_1RC = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrix_1RC))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_float32_is_not_rounded_to_bfloat16() -> None:
    matrix_1RC = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0))
    precise = orthogonalised(matrix_1RC.double())
    assert (orthogonalised(matrix_1RC) - precise).abs().max() < 1e-5
    assert (orthogonalised(matrix_1RC.bfloat16()) - precise).abs().max() > 1e-3


def test_a_tall_matrix_takes_longer_steps_and_the_learning_rate_of_the_moment() -> None:
    for rate in (0.1, 0.2):
        tall = nn.Parameter(torch.zeros(32, 8))
        optimizer = Muon([tall], 1.0, torch.float32)
        optimizer.param_groups[0]["lr"] = rate
        tall.grad = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
        optimizer.step()
        assert torch.linalg.matrix_norm(tall.detach(), 2).item() == pytest.approx(rate * math.sqrt(4), rel=0.3)


def test_what_is_no_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))], 0.1, torch.float32)
