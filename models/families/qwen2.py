"""Qwen2 and Qwen2.5 (arXiv 2407.10671, 2412.15115). Queries, keys and values have biases, and later layers a window
where the configuration asks for it."""

from .base import Attention, Description, Family, described, windowed_layers
from .fields import Fields

# Of transformers, where a configuration is silent.
_WINDOW, _FIRST_WITH_WINDOW = 4096, 28


def window_size(fields: Fields) -> int | None:
    """The window of layers that have one; None where none has."""
    window = fields.integer("sliding_window", None) if "sliding_window" in fields else _WINDOW
    return window if fields.flag("use_sliding_window", False) else None


def window_of(fields: Fields) -> tuple[int | None, tuple[int, ...]]:
    """The window, and the layers that have it."""
    window, first = window_size(fields), fields.integer("max_window_layers", _FIRST_WITH_WINDOW, at_least=0)
    layers = windowed_layers(fields, lambda layer: window is not None and layer >= first)
    if layers and window is None:
        raise ValueError(f"{fields.origin}: layer_types with sliding_attention: needs use_sliding_window and "
                         "sliding_window")
    return (window, layers) if layers else (None, ())


def _describe(fields: Fields) -> Description:
    fields.expect("use_mrope", False)  # which Qwen2.5's own configurations have
    window, layers = window_of(fields)
    return described(fields, Attention(qkv_bias=True, window=window, windowed_layers=layers))


QWEN2 = Family(("Qwen2ForCausalLM",), _describe)
