"""A weight that is held packed alone (kernels/packed_linear.py). Its shape, dtype and device can be asked; whoever
reads or writes its numbers gets the parameter back as it was, and the packed weight is dropped: to train, to move, and
for whatever else PyTorch does with a parameter.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.packed_linear import PackedWeight

# What does not read the numbers.
ASKS: frozenset[Any] = frozenset({
    *(getattr(Tensor, name).__get__ for name in (
        "shape", "dtype", "device", "layout", "ndim", "nbytes", "itemsize", "requires_grad", "is_leaf", "grad_fn",
        "is_cuda", "is_cpu", "is_mps", "is_xpu", "is_meta", "is_sparse", "is_mkldnn", "is_quantized", "is_nested")),
    Tensor.size, Tensor.dim, Tensor.numel, Tensor.nelement, Tensor.element_size, Tensor.__len__, Tensor.__hash__,
    Tensor.requires_grad_, Tensor.is_floating_point, Tensor.is_complex, Tensor.is_inference, torch.is_floating_point,
    torch.is_complex, torch.is_inference, torch.numel})


class OnlyPacked(nn.Parameter):
    """In the packed weight's place lie NaNs that take no memory: were they ever multiplied, it would be seen. Copies
    hold the weight as it was."""

    packed: PackedWeight

    @classmethod
    def become(cls, weight: nn.Parameter, packed: PackedWeight) -> None:
        """Let go of the weight's memory. It stays the same object, as optimizers and other holders know it."""
        nothing = torch.full((), torch.nan, dtype=weight.dtype, device=weight.device)
        weight.data = nothing.expand(weight.shape)
        weight.__class__ = cls
        weight.packed = packed.alone()  # pyright: ignore[reportAttributeAccessIssue]

    def give_back(self) -> None:
        """Become what it was."""
        packed = self.packed
        del self.packed
        self.__class__ = nn.Parameter  # pyright: ignore[reportAttributeAccessIssue]
        self.data = packed.dense()

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func not in ASKS:
            for weight in _within((args, kwargs)):
                weight.give_back()
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
        memo[id(self)] = copied = nn.Parameter(self.packed.dense(), self.requires_grad)
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        return nn.Parameter(self.packed.dense(), self.requires_grad).__reduce_ex__(protocol)


def _within(arguments: Any) -> Iterator[OnlyPacked]:
    if isinstance(arguments, OnlyPacked):
        yield arguments
    elif isinstance(arguments, list | tuple | dict):
        for part in arguments.values() if isinstance(arguments, dict) else arguments:
            yield from _within(part)
