"""What a measurement ran on and with, as seen and not as asked for: device, threads, types, kernels."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ...kernels.dispatch import Ran, named, recording
from ...models import DecodableTransformer, LanguageModel, Transformer
from .devices import device_name
from .records import Json

_PRODUCTS = frozenset({"linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "_grouped_mm",
                       "_linear_pointwise", "mkldnn_linear"})


class ProductTypes(TorchDispatchMode):
    """Within its `with` block, the types in which matrix products run; those of attention and of Triton programs are
    not among them. Operators take several times as long under it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name.partition("::")[2] in _PRODUCTS:
            self.seen.add(result.dtype)
        return result


def seen(transformer: Transformer, products: ProductTypes, ran: Ran) -> Json:
    """Where the model lies, PyTorch's threads, the types of its weights and of the products, and what ran of each
    kernel."""
    return {"device": device_name(transformer.head.weight.device), "threads": torch.get_num_threads(),
            "dtypes": {"weights": _names({parameter.dtype for parameter in transformer.parameters()}),
                       "products": _names(products.seen)}, "kernels": named(ran)}


def _names(dtypes: set[torch.dtype]) -> list[str]:
    return sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)


def execution(model: LanguageModel, ran: Ran) -> Json:
    """What is `seen` of a measurement that was made with the model just now; products are those of one more forward."""
    assert isinstance(model, DecodableTransformer)
    tokens_BL = torch.full((1, 1), model.spec.mask_id, device=model.spec.device)
    with torch.inference_mode(), recording(), ProductTypes() as products:
        model.transformer.head(model.transformer.sequence_hidden(tokens_BL))
    return seen(model.transformer, products, ran)
