"""Transformers written a second time, in plain PyTorch, from what papers and public files say of them. Nothing here
calls this library, and faults are planted by `replace`.

Tensor names: B rows, L positions, T positions of all rows, E width, H heads, D head width, X experts,
A experts of a position.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Network = Callable[[Tensor], Tensor]


def everything(length: int) -> Tensor:
    """Which positions see which, bool [L, L]."""
    return torch.ones(length, length, dtype=torch.bool)


def causal(length: int) -> Tensor:
    return everything(length).tril()


@dataclass(frozen=True)
class InBlocks:
    """A position sees its own block and the earlier ones."""

    block: int

    def __call__(self, length: int) -> Tensor:
        number_L = torch.arange(length).div(self.block, rounding_mode="floor")
        return number_L[None, :] <= number_L[:, None]


@dataclass(frozen=True)
class Swiglu:
    gate: Tensor
    up: Tensor
    down: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return (torch.nn.functional.silu(x @ self.gate.T) * (x @ self.up.T)) @ self.down.T


@dataclass(frozen=True)
class PlainMixture:
    """Every expert at every position, most of them times 0. `choose` takes logits [T, X] and gives experts and weights
    [T, A]."""

    router: Tensor
    experts: list[Network]
    choose: Callable[[Tensor], tuple[Tensor, Tensor]]
    shared: Network | None = None

    def __call__(self, x_BLE: Tensor) -> Tensor:
        x_TE = x_BLE.flatten(0, 1)
        logits_TX = x_TE @ self.router.T
        chosen_TA, weight_TA = self.choose(logits_TX)
        weight_TX = torch.zeros_like(logits_TX).scatter(1, chosen_TA, weight_TA)
        y_TE = torch.zeros_like(x_TE) if self.shared is None else self.shared(x_TE)
        for expert, weight_T in zip(self.experts, weight_TX.T, strict=True):
            y_TE = y_TE + weight_T[:, None] * expert(x_TE)
        return y_TE.view_as(x_BLE)


@dataclass(frozen=True)
class SoftmaxChoice:
    """A softmax over all experts, of which the largest are taken, and made to sum to one or not."""

    top_k: int
    renormalise: bool

    def __call__(self, logits_TX: Tensor) -> tuple[Tensor, Tensor]:
        weight_TA, chosen_TA = logits_TX.softmax(1).topk(self.top_k)
        return chosen_TA, weight_TA / weight_TA.sum(1, keepdim=True) if self.renormalise else weight_TA


@dataclass(frozen=True)
class PlainLayer:
    """Products as checkpoints hold them, [outputs, inputs]. Biases and norms of queries and keys: None for none."""

    attention_norm: Tensor
    qkv: tuple[Tensor, Tensor, Tensor]
    o: Tensor
    ffn_norm: Tensor
    ffn: Network
    biases: tuple[Tensor, Tensor, Tensor] | None = None
    o_bias: Tensor | None = None
    qk_norms: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class PlainModel:
    """`rotated` is how many of a head's first dimensions are."""

    embedding: Tensor
    layers: list[PlainLayer]
    norm: Tensor
    head: Tensor
    num_heads: int
    head_width: int
    theta: float
    eps: float
    rotated: int
    sees: Callable[[int], Tensor] = field(default=everything)

    def __call__(self, tokens_BL: Tensor) -> Tensor:
        """Logits [B, L, V], row q those of the hidden state at position q."""
        x_BLE = self.embedding[tokens_BL]
        for layer in self.layers:
            x_BLE = x_BLE + self._attention(layer, self._normed(x_BLE, layer.attention_norm))
            x_BLE = x_BLE + layer.ffn(self._normed(x_BLE, layer.ffn_norm))
        return self._normed(x_BLE, self.norm) @ self.head.T

    def _attention(self, layer: PlainLayer, x_BLE: Tensor) -> Tensor:
        q, k, v = (self._heads(x_BLE @ weight.T + bias) for weight, bias in zip(
            layer.qkv, layer.biases or (torch.zeros(1),) * 3, strict=True))
        if layer.qk_norms is not None:
            q, k = (self._normed(x, weight) for x, weight in zip((q, k), layer.qk_norms, strict=True))
        q, k = self._rotated(q), self._rotated(k)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        weights = scores.masked_fill(~self.sees(x_BLE.shape[1]), -torch.inf).softmax(-1)
        y_BLE = (weights @ v).transpose(1, 2).flatten(2) @ layer.o.T
        return y_BLE if layer.o_bias is None else y_BLE + layer.o_bias

    def _heads(self, x_BLN: Tensor) -> Tensor:
        """[B, H, L, D], keys and values as often as queries share them."""
        x_BHLD = x_BLN.unflatten(-1, (-1, self.head_width)).transpose(1, 2)
        return x_BHLD.repeat_interleave(self.num_heads // x_BHLD.shape[1], dim=1)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * weight

    def _rotated(self, x_BHLD: Tensor) -> Tensor:
        half = self.rotated // 2
        frequency = torch.tensor([self.theta ** (-2 * pair / self.rotated) for pair in range(half)])
        angle = torch.arange(x_BHLD.shape[2])[:, None] * frequency
        first, second, rest = x_BHLD.split((half, half, x_BHLD.shape[-1] - 2 * half), dim=-1)
        return torch.cat((first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin(), rest),
                         dim=-1)
