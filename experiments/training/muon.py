"""Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon), with matrix products in a given dtype.

    M <- M + (1 - mu) (G - M)                       momentum, mu = 0.95
    X  = (G + mu (M - G)) / |G + mu (M - G)|_F      Nesterov
    X <- a X + (b A + c A^2) X, A = X X^T           five times: brings all singular values near 1
    W <- W - lr sqrt(max(1, rows / columns)) X

torch.optim.Muon computes the same, but one matrix at a time and always in bfloat16, which is ten times slower than
float32 on processors without bfloat16 instructions. Here matrices of one shape are batched.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5
_MOMENTUM = 0.95
_EPS = 1e-7


def orthogonalised(update_NRC: Tensor) -> Tensor:
    """N matrices with their singular values brought near 1: float [N, R, C], computed in its dtype."""
    a, b, c = _COEFFICIENTS
    tall = update_NRC.shape[1] > update_NRC.shape[2]
    x = update_NRC.mT.contiguous() if tall else update_NRC
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_EPS)
    for _ in range(_NUM_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """For 2-D weights of hidden layers. `dtype` is that of the matrix products; momentum has the weights' dtype."""

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, dtype: torch.dtype) -> None:
        super().__init__(matrices, {"lr": lr})
        self._dtype = dtype
        self._by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for matrix in self.param_groups[0]["params"]:
            if matrix.ndim != 2:
                raise ValueError(f"shape {tuple(matrix.shape)}: Muon takes matrices only")
            self._by_shape.setdefault(matrix.shape, []).append(matrix)

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  no closure: nothing here evaluates twice
        for shape, matrices in self._by_shape.items():
            step_NRC = orthogonalised(torch.stack([self._update(matrix) for matrix in matrices]).to(self._dtype))
            rate = self.param_groups[0]["lr"] * math.sqrt(max(1, shape[0] / shape[1]))
            for matrix, step_RC in zip(matrices, step_NRC.to(matrices[0].dtype), strict=True):
                matrix.sub_(step_RC, alpha=rate)

    def _update(self, matrix: nn.Parameter) -> Tensor:
        """Update the momentum; returns the Nesterov update before orthogonalisation."""
        assert matrix.grad is not None
        momentum = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
        momentum.lerp_(matrix.grad, 1 - _MOMENTUM)
        return matrix.grad.lerp(momentum, _MOMENTUM)
