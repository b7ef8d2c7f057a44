"""The machine at hand as a `Card`, measured in seconds: its bandwidth, its products, and what decodes of random models
take besides. Those models are of the size of the tasks' pairs; what they tell of others is less sure.

    seconds_per_step, _layer    of autoregression at batch 1 with one and with eight layers, 16 wide
    seconds_per_value           what bandwidth, products, step and layers leave of 16 rows of 64 positions, 128 wide
    seconds_per_row_value       what all that leaves of autoregression with 64 rows, 128 wide
"""

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

_SECONDS = 2.0  # of each of six measurements
_BYTES = 1 << 29  # past any cache
_CACHE_BYTES = 16 << 20  # a cloud machine's cores have some 16 to 32 MiB of a shared cache
_WIDTH, _ROWS = 2048, 1024
_TINY = Shape(width=16, num_layers=1, num_heads=2, num_kv_heads=2, ffn_width=16)
_WIDE = Shape(width=128, num_layers=4, num_heads=4, num_kv_heads=4, ffn_width=384)
_VOCAB_SIZE, _LENGTH, _MANY_LAYERS, _MANY_ROWS = 16, 64, 8, 64
_NUM_NEW, _NUM_STEPS, _NUM_ROWS = 32, 8, 16
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

    def autoregressive(shape: Shape, num_rows: int) -> float:
        """Seconds a step."""
        prompt = Request.completing([1], _NUM_NEW, mask_id=_VOCAB_SIZE - 1)
        config = TransformerConfig(_VOCAB_SIZE, _LENGTH, Causal(), shape)
        run = _decode(config, presets.autoregressive(), dtype, [prompt] * num_rows, capture)
        return _least(run, seconds) / _NUM_NEW

    def left_by(shape: Shape, num_rows: int, num_fed: int, measured: float) -> float:
        """What is left of a measured step, for each number of its width in a layer."""
        config = TransformerConfig(_VOCAB_SIZE, _LENGTH, Bidirectional(), shape)
        cost = Cost(0, config.forward_flops(num_fed, num_fed * _LENGTH, num_fed))
        left = measured - card.step_seconds(shape, num_rows, num_fed, cost, dtype_name)
        return max(0.0, left) / (shape.width * shape.num_layers)

    few, many = autoregressive(_TINY, 1), autoregressive(replace(_TINY, num_layers=_MANY_LAYERS), 1)
    per_layer = max(0.0, many - few) / (_MANY_LAYERS - 1)
    card = replace(card, seconds_per_step=max(0.0, few - per_layer), seconds_per_layer=per_layer)
    canvas = Request([_VOCAB_SIZE - 1] * _LENGTH)
    confident = Decoder(Whole(), Linear(_NUM_STEPS), Greedy(), TopProbability(), Recompute())
    config = TransformerConfig(_VOCAB_SIZE, _LENGTH, Bidirectional(), _WIDE)
    wide = _least(_decode(config, confident, dtype, [canvas] * _NUM_ROWS, capture), seconds) / _NUM_STEPS
    num_fed = _NUM_ROWS * _LENGTH
    card = replace(card, seconds_per_value=left_by(_WIDE, _NUM_ROWS, num_fed, wide) / num_fed)
    per_row = left_by(_WIDE, _MANY_ROWS, _MANY_ROWS, autoregressive(_WIDE, _MANY_ROWS)) / _MANY_ROWS
    return replace(card, seconds_per_row_value=per_row)


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
