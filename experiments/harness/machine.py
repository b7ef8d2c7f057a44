"""The machine at hand as a `Card`: its bandwidth, its products and what a layer takes besides, measured in seconds."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from ...decoders import CapturedSteps, Decoder, Greedy, Linear, Recompute, Request, TopProbability, Whole, presets
from ...kernels.case import Cost
from ...models import Bidirectional, Causal, DecodableTransformer, Shape, Transformer, TransformerConfig
from .provenance import provenance
from .roofline import Card

_SECONDS = 3.0  # of each of five measurements
_BYTES = 1 << 29  # past any cache
_CACHE_BYTES = 16 << 20  # a cloud machine's cores have some 16 to 32 MiB of a shared cache
_WIDTH, _ROWS = 2048, 1024
_TINY = TransformerConfig(16, 64, Causal(), Shape(width=16, num_layers=8, num_heads=2, num_kv_heads=2, ffn_width=16))
_WIDE = TransformerConfig(16, 64, Bidirectional(), Shape(width=128, num_layers=4, num_heads=4, num_kv_heads=4,
                                                         ffn_width=384))
_NUM_NEW, _NUM_STEPS, _NUM_ROWS = 32, 8, 16
_MANY_ROWS = 64
_NUM_WARM_UPS = 3


@torch.inference_mode()
def this_machine(dtype_name: str, seconds: float = _SECONDS, capture: str = "none") -> Card:
    """The CPU with the threads that PyTorch has. `dtype_name` is that of the products, `capture` how steps are taken;
    the largest rates are taken, since whatever disturbs makes them smaller."""
    dtype = getattr(torch, dtype_name)
    memory = torch.ones(_BYTES // 4)
    x, weight = torch.randn(_ROWS, _WIDTH).to(dtype), torch.randn(_WIDTH, _WIDTH).to(dtype)
    card = Card(provenance()["machine"]["cpu"], _BYTES / _least(memory.sum, seconds),
                {dtype_name: 2 * _ROWS * _WIDTH * _WIDTH / _least(lambda: F.linear(x, weight), seconds)},
                cache_bytes=_CACHE_BYTES)
    prompt = Request.completing([1], _NUM_NEW, mask_id=_TINY.vocab_size - 1)
    one, many = (_least(_decode(_TINY, presets.autoregressive(), dtype, [prompt] * num_rows, capture), seconds)
                 / (_TINY.shape.num_layers * _NUM_NEW) for num_rows in (1, _MANY_ROWS))
    per_row = max(0.0, many - one) / (_MANY_ROWS - 1)
    card = replace(card, seconds_per_layer=max(0.0, one - per_row), seconds_per_row=per_row)
    canvas = Request([_WIDE.vocab_size - 1] * _WIDE.max_length)
    confident = Decoder(Whole(), Linear(_NUM_STEPS), Greedy(), TopProbability(), Recompute())
    wide = _least(_decode(_WIDE, confident, dtype, [canvas] * _NUM_ROWS, capture), seconds) / _NUM_STEPS
    num_fed = _NUM_ROWS * _WIDE.max_length
    cost = Cost(0, _WIDE.forward_flops(num_fed, num_fed * _WIDE.max_length, num_fed))
    left = wide - card.forward_seconds(_WIDE.shape, _NUM_ROWS, num_fed, cost, dtype_name)
    num_values = num_fed * _WIDE.shape.width * _WIDE.shape.num_layers
    return replace(card, seconds_per_value=max(0.0, left) / num_values)


def _decode(config: TransformerConfig, decoder: Decoder, dtype: torch.dtype, requests: Sequence[Request], capture: str
            ) -> Callable[[], object]:
    """A decode of a model with random weights, captured already where it is to be."""
    shift = int(isinstance(config.attention, Causal))
    model = DecodableTransformer(Transformer(config).eval().to(dtype), config.vocab_size - 1, shift)
    runner = CapturedSteps.named(capture, decoder)

    def run() -> None:
        decoding = decoder.begin(model, requests)
        for _ in decoder.stream(decoding, runner):
            pass

    for _ in range(_NUM_WARM_UPS):
        run()
    return run


def _least(run: Callable[[], object], seconds: float) -> float:
    """The least time of a run, among those that so many seconds allow, three at least."""
    ends, times = time.perf_counter() + seconds, list[float]()
    while len(times) < 3 or time.perf_counter() < ends:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)
