"""Families of published models, by the architecture that config.json names."""

from dataclasses import replace
from typing import Any

from ...kernels.checks import shown
from .base import Description, Family
from .diffusion_gemma import DIFFUSION_GEMMA
from .dream import DREAM
from .fast_dllm import FAST_DLLM
from .fields import Fields
from .gemma3 import GEMMA3
from .llada import LLADA
from .llada2 import LLADA2
from .llada_moe import LLADA_MOE
from .llama import LLAMA
from .mistral import MISTRAL
from .mixtral import MIXTRAL
from .olmoe import OLMOE
from .qwen2 import QWEN2
from .qwen3 import QWEN3, QWEN3_MOE
from .sdar import SDAR, SDAR_MOE

FAMILIES = (GEMMA3, LLAMA, MISTRAL, MIXTRAL, OLMOE, QWEN2, QWEN3, QWEN3_MOE,
            LLADA, DREAM, LLADA_MOE, LLADA2, SDAR, SDAR_MOE, FAST_DLLM, DIFFUSION_GEMMA)
_REFUSED = {
    "NemotronLabsDiffusionModel": "its committed tokens are causal and only the open block sees itself whole, and its "
                                  "queries are scaled by their position, neither of which this library has",
}
_BY_ARCHITECTURE = {name: family for family in FAMILIES for name in family.architectures}


def describe(values: dict[str, Any], origin: str, ignoring: tuple[str, ...] = ()) -> Description:
    """What the family of a configuration makes of it. ValueError names what is unknown or not supported; fields of
    `ignoring` may be."""
    fields = Fields(values, origin)
    names = fields.take("architectures")
    if isinstance(names, list) and len(names) == 1 and names[0] in list(_REFUSED):
        raise ValueError(f"{origin}: architectures={shown(names)}: {_REFUSED[names[0]]}")
    if not isinstance(names, list) or len(names) != 1 or names[0] not in list(_BY_ARCHITECTURE):
        raise ValueError(f"{origin}: architectures={shown(names)}: must be one of "
                         f"{', '.join(sorted(_BY_ARCHITECTURE))}")
    if fields.take("quantization_config", None) is not None:
        quantization = fields.table("quantization_config")
        method = None if quantization is None else quantization.take("quant_method", None)
        raise ValueError(f"{origin}: quantization_config with quant_method={shown(method)}: must be a checkpoint of "
                         "float weights, or a GGUF file")
    try:
        found = _BY_ARCHITECTURE[names[0]].describe(fields)
    except ValueError as error:
        named = str(error).startswith(origin)  # what a Shape refuses does not say of which configuration
        raise error if named else ValueError(f"{origin}: {error}") from None
    named = {name: fields.take(f"{name}_token_id", None) for name in ("bos", "eos", "pad")}
    special_ids = {**found.special_ids, **{name: value for name, value in named.items() if value is not None}}
    fields.check_all_read(ignoring)
    return replace(found, architecture=names[0],
                   special_ids={name: value for name, value in special_ids.items() if value is not None})


__all__ = ["FAMILIES", "Description", "Family", "describe"]
