"""The machine at hand as a `Card`: its bandwidth, its products and what a layer takes besides, measured in seconds."""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from ...decoders import Request, presets
from ...models import Causal, DecodableTransformer, Shape, Transformer, TransformerConfig
from ..harness.provenance import provenance
from ..harness.roofline import Card

_SECONDS = 3.0  # of each of three measurements
_BYTES = 1 << 29  # past any cache
_WIDTH, _ROWS = 2048, 1024
_LAYERS, _NUM_NEW = 8, 32


@torch.inference_mode()
def this_machine(dtype_name: str, seconds: float = _SECONDS) -> Card:
    """The CPU with the threads that PyTorch has. `dtype_name` is that of the products; the largest rates are taken,
    since whatever disturbs makes them smaller."""
    dtype = getattr(torch, dtype_name)
    memory = torch.ones(_BYTES // 4)
    x, weight = torch.randn(_ROWS, _WIDTH).to(dtype), torch.randn(_WIDTH, _WIDTH).to(dtype)
    flops = 2 * _ROWS * _WIDTH * _WIDTH
    return Card(provenance()["machine"]["cpu"], _BYTES / _least(memory.sum, seconds),
                {dtype_name: flops / _least(lambda: F.linear(x, weight), seconds)},
                _least(_tiny_decode(), seconds) / (_LAYERS * _NUM_NEW))


def _tiny_decode() -> Callable[[], object]:
    """A decode in which next to nothing is read or multiplied."""
    config = TransformerConfig(16, 64, Causal(), Shape(width=16, num_layers=_LAYERS, num_heads=2, num_kv_heads=2,
                                                       ffn_width=16))
    model, decoder = DecodableTransformer(Transformer(config).eval(), 15, shift=1), presets.autoregressive()
    return lambda: decoder.decode(model, [Request.completing([1], _NUM_NEW, mask_id=15)])


def _least(run: Callable[[], object], seconds: float) -> float:
    """The least time of a run, among those that so many seconds allow, three at least."""
    ends, times = time.perf_counter() + seconds, list[float]()
    while len(times) < 3 or time.perf_counter() < ends:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)
