"""Mistral 7B and those of its shape (arXiv 2310.06825). Where a configuration is silent about it, a window is 4,096."""

from .base import Attention, Description, Family, all_layers, described
from .fields import Fields

_WINDOW = 4096


def _describe(fields: Fields) -> Description:
    window = fields.integer("sliding_window", None) if "sliding_window" in fields else _WINDOW
    layers = all_layers(fields) if window else ()
    return described(fields, Attention(window=window, windowed_layers=layers))


MISTRAL = Family(("MistralForCausalLM",), _describe)
