"""A linear layer that multiplies by a packed copy of its weight where it holds one (kernels/packed_linear.py)."""

from typing import Any

from torch import Tensor, nn

from ..kernels.packed_linear import PackedWeight, linear, pays


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether the module is of this very class and without hooks, so that a kernel may read its weights in its place:
    one that wraps it, as an adapter of low rank does, or a hook would be passed over."""
    return type(module) is kind and not module._forward_hooks and not module._forward_pre_hooks


class Linear(nn.Linear):
    """nn.Linear, and `pack`. A weight that is trained, loaded or moved after it was packed is multiplied as it lies;
    one changed through `.data`, which PyTorch does not count, must be packed again. Copies of the layer and files do
    not hold the packed weight."""

    packed: PackedWeight | None = None

    @property
    def num_weight_bytes(self) -> int:
        return self.weight.nbytes

    def pays(self, model_bytes: int) -> bool:
        """Whether packing would make it faster in a model whose layers' weights take so many bytes."""
        return pays(self.weight, model_bytes)

    def pack(self, model_bytes: int = 0) -> int:
        """Pack the weight as it is now, if that pays on its device in a model whose layers' weights take so many bytes.
        Returns the bytes of the copy."""
        self.packed = PackedWeight.of(self.weight, model_bytes)
        return 0 if self.packed is None else self.packed.num_bytes

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias, self.packed)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"packed": None}
