"""Qwen2 and Qwen2.5 (arXiv 2407.10671, 2412.15115). Queries, keys and values have biases, and later layers a window
where the configuration asks for it."""

from .base import Attention, Description, Family, described, windowed_layers
from .fields import Fields


def window_of(fields: Fields) -> tuple[int | None, tuple[int, ...]]:
    """The window, and the layers that have it."""
    window, first = fields.integer("sliding_window", None), fields.integer("max_window_layers", 0, at_least=0)
    has_window = fields.flag("use_sliding_window", False)
    layers = windowed_layers(fields, lambda layer: has_window and window is not None and layer >= first)
    return (window, layers) if layers else (None, ())


def _describe(fields: Fields) -> Description:
    window, layers = window_of(fields)
    return described(fields, Attention(qkv_bias=True, window=window, windowed_layers=layers))


QWEN2 = Family(("Qwen2ForCausalLM",), _describe)
