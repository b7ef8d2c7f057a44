"""A linear layer that multiplies by its packed weight where it holds one (kernels/packed_linear.py): a copy, or the
weight itself, which is given back when it is read; or by one of few bits (kernels/quantized_linear.py)."""

from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.packed_linear import PackedWeight, linear, pays, pays_alone
from ..kernels.quantized_linear import QuantizedWeight, quantized_linear
from .only_packed import OnlyPacked
from .quantized_parameter import QuantizedParameter


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether the module is of this very class and without hooks, so that a kernel may read its weights in its place:
    one that wraps it, as an adapter of low rank does, or a hook would be passed over."""
    return type(module) is kind and not module._forward_hooks and not module._forward_pre_hooks


class Linear(nn.Linear):
    """nn.Linear, and `pack`. A weight that is trained, loaded or moved after it was packed is multiplied as it lies;
    one changed through `.data`, which PyTorch does not count, must be packed again. Copies of the layer and files do
    not hold the packed weight."""

    _copy: PackedWeight | None = None

    @property
    def packed(self) -> PackedWeight | None:
        """The packed weight, be it a copy or the only one."""
        return self.weight.packed if isinstance(self.weight, OnlyPacked) else self._copy

    @property
    def is_only_packed(self) -> bool:
        return isinstance(self.weight, OnlyPacked)

    @property
    def is_quantized(self) -> bool:
        return isinstance(self.weight, QuantizedParameter)

    @property
    def num_weight_bytes(self) -> int:
        return self.weight.quantized.num_bytes if isinstance(self.weight, QuantizedParameter) else self.weight.nbytes

    def pays(self, model_bytes: int) -> bool:
        """Whether packing would make it faster in a model whose layers' weights take so many bytes."""
        return not (self.is_only_packed or self.is_quantized) and pays(self.weight, model_bytes)

    def pack(self, model_bytes: int = 0) -> int:
        """Pack the weight as it is now, if that pays on its device in a model whose layers' weights take so many bytes.
        Returns the bytes of the copy, 0 where the weight is held packed alone."""
        has_one = self.is_only_packed or self.is_quantized
        self._copy = None if has_one else PackedWeight.of(self.weight, model_bytes)
        return 0 if self._copy is None else self._copy.num_bytes

    def pack_alone(self, model_bytes: int) -> int:
        """Hold the weight packed alone, if that pays, until it is read. No other layer may have it. Returns the bytes
        that it takes."""
        if isinstance(self.weight, OnlyPacked):
            return self.weight.packed.num_bytes
        if self.is_quantized:
            return 0
        packed = PackedWeight.of(self.weight, model_bytes) if pays_alone(self.weight, model_bytes) else None
        if packed is None:
            return 0
        self.drop_copy()
        assert isinstance(self.weight, nn.Parameter)
        OnlyPacked.become(self.weight, packed)
        return packed.num_bytes

    def drop_copy(self) -> None:
        """Hold the weight once."""
        self._copy = None

    def unpack(self) -> None:
        """Hold the weight as it lies, and no other."""
        self.drop_copy()
        if isinstance(self.weight, OnlyPacked):
            self.weight.give_back()

    def quantize(self, quantized: QuantizedWeight) -> None:
        """Hold the weight in so few bits alone, as do others that have it; it is multiplied so, and not trained."""
        self.unpack()
        assert isinstance(self.weight, nn.Parameter)
        QuantizedParameter.become(self.weight, quantized)

    def dequantize(self) -> None:
        """Hold the weight in floats, rounded as it was."""
        if isinstance(self.weight, QuantizedParameter):
            self.weight.become_floats()

    def forward(self, input: Tensor) -> Tensor:
        if isinstance(self.weight, QuantizedParameter):
            return quantized_linear(input, self.weight.quantized, self.bias)
        return linear(input, self.weight, self.bias, self.packed)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_copy": None}


class Embedding(nn.Embedding):
    """nn.Embedding, whose weight may be that of a quantised head: then the rows that are looked up become floats."""

    def forward(self, input: Tensor) -> Tensor:
        if isinstance(self.weight, QuantizedParameter):
            return self.weight.quantized.rows(input).to(self.weight.dtype)
        return super().forward(input)


class CappedLinear(Linear):
    """Linear without a bias, whose results, in float32, are bent to within `cap` of 0, as Gemma has it:
    cap tanh(y / cap)."""

    def __init__(self, width: int, num_outputs: int, cap: float) -> None:
        super().__init__(width, num_outputs, bias=False)
        self.cap = cap

    def forward(self, input: Tensor) -> Tensor:
        return self.capped(super().forward(input))

    def capped(self, product: Tensor) -> Tensor:
        """What comes of a product with the weight, in float32 (float64 of float64)."""
        wide = product if product.dtype == torch.float64 else product.float()
        return self.cap * torch.tanh(wide / self.cap)
