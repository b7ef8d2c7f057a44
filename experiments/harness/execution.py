"""How a measurement ran, as observed rather than requested: device, threads, dtypes, kernels."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ...kernels.dispatch import Ran, named, recording
from ...models import DecodableTransformer, LanguageModel, Transformer
from ...models.quantized_parameter import QuantizedParameter
from .devices import device_name
from .records import Json

_PRODUCTS = frozenset({"linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "_grouped_mm",
                       "_linear_pointwise", "mkldnn_linear", "_weight_int4pack_mm_for_cpu", "_weight_int8pack_mm"})


class ProductTypes(TorchDispatchMode):
    """A `with` block that records the dtypes of matrix products, except those inside attention and Triton kernels.
    Operators are several times slower under it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name.partition("::")[2] in _PRODUCTS:
            self.seen.add(result.dtype)
        return result


def seen(transformer: Transformer, products: ProductTypes, ran: Ran) -> Json:
    """The model's device, PyTorch's threads, the dtypes of weights and products, and the implementation of each kernel
    that ran; of linear layers F.linear, unless weights are packed."""
    kernels = named(ran)
    return {"device": device_name(transformer.head.weight.device), "threads": torch.get_num_threads(),
            "dtypes": {"weights": _weights(transformer),
                       "products": _names(products.seen)}, "linear": kernels.pop("linear", "F.linear"),
            "kernels": kernels}


def _weights(transformer: Transformer) -> list[str]:
    """The dtypes of floats, and how quantised weights are held."""
    held = {parameter.quantized.form.value for parameter in transformer.parameters()
            if isinstance(parameter, QuantizedParameter)}
    return [*_names({parameter.dtype for parameter in transformer.parameters()}), *sorted(held)]


def _names(dtypes: set[torch.dtype]) -> list[str]:
    return sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)


def execution(model: LanguageModel, ran: Ran) -> Json:
    """As `seen`, for a measurement just made with the model; product dtypes are those of one extra forward."""
    assert isinstance(model, DecodableTransformer)
    tokens_BL = torch.full((1, 1), model.spec.mask_id, device=model.spec.device)
    with torch.inference_mode(), recording(), ProductTypes() as products:
        model.transformer.head(model.transformer.sequence_hidden(tokens_BL))
    return seen(model.transformer, products, ran)
