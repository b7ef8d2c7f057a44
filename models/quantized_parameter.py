"""A weight of four or eight bits (kernels/quantized_linear.py) in a parameter's place. Its shape, and the dtype and
device of what it is multiplied with, can be asked; whoever would read, write, train, move or save its numbers is
refused, for they are not the floats that such code expects. Copies share it."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..kernels.quantized_linear import QuantizedWeight, dense
from .only_packed import ASKS


class QuantizedParameter(nn.Parameter):
    """In the weight's place lie NaNs that take no memory."""

    quantized: QuantizedWeight

    @classmethod
    def become(cls, weight: nn.Parameter, quantized: QuantizedWeight) -> None:
        """Let go of the weight's memory. It stays the same object, as all its holders know it, a tied embedding say."""
        weight.requires_grad = False
        weight.grad = None
        weight.data = torch.full((), torch.nan, dtype=weight.dtype).expand(quantized.shape)
        weight.__class__ = cls
        weight.quantized = quantized  # pyright: ignore[reportAttributeAccessIssue]

    def become_floats(self) -> None:
        """Become a parameter as others are, of the values that were multiplied."""
        dtype, quantized = self.dtype, self.quantized
        del self.quantized
        self.__class__ = nn.Parameter  # pyright: ignore[reportAttributeAccessIssue]
        with torch.inference_mode(False), torch.no_grad():
            self.data = dense(quantized).to(dtype)
        self.requires_grad = True

    def _refuse(self) -> NoReturn:
        raise ValueError(f"a weight of {self.quantized.form.value.removeprefix('weights of ')} holds no floats to "
                         "train, move, change or save: call Transformer.dequantize() first")

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        is_asked_to_train = func is Tensor.requires_grad_ and True in (*args[1:], *kwargs.values(), len(args) == 1)
        if func not in ASKS or is_asked_to_train:
            found = next((part for part in (*args, *kwargs.values()) if isinstance(part, cls)), None)
            if found is not None:
                found._refuse()
            raise ValueError("a quantised weight holds no floats: call Transformer.dequantize() first")
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "QuantizedParameter":
        memo[id(self)] = copied = nn.Parameter(torch.empty((), dtype=self.dtype), requires_grad=False)
        QuantizedParameter.become(copied, self.quantized)
        assert isinstance(copied, QuantizedParameter)
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        self._refuse()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{type(self).__name__}({self.quantized.form.value}, shape={[*self.quantized.shape]})"
