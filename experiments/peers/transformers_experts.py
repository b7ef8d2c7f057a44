"""transformers' mixture of experts (OLMoE's block) against ours on a CPU: same weights and inputs, with its loop over
experts ("eager") and with torch's grouped product. (Its batched one copies weights for every position: the slowest.)

A step of few positions is bound by reading the chosen experts' weights. `warm` repeats the same positions, whose
experts stay in the CPU cache if they fit; `cold` uses different ones each time.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.metadata import version
from typing import Any

import torch

from ...kernels.moe_router import Routing
from ...models import ExpertShape, MoELayer
from ..harness.progress import console
from ..harness.records import describe
from .agreement import interleaved
from .base import Comparison, Timing

WIDTH = 512
SHAPE = ExpertShape(num_experts=64, expert_width=256, routing=Routing(8))
_WAYS = ("eager", "grouped_mm")
_POSITIONS = (1, 4, 8, 32, 128)
_NUM_COLD = 16
_AIM = {"eager": 1.2}


def pair(shape: ExpertShape = SHAPE, width: int = WIDTH, seed: int = 0, way: str = "eager") -> tuple[MoELayer, Any]:
    """Our layer and theirs with the same random weights; `way` is their implementation of the experts."""
    from transformers import OlmoeConfig  # pyright: ignore[reportMissingImports]
    from transformers.models.olmoe.modeling_olmoe import (  # pyright: ignore[reportMissingImports]
        OlmoeSparseMoeBlock,
    )

    config = OlmoeConfig(hidden_size=width, intermediate_size=shape.expert_width, num_experts=shape.num_experts,
                         num_experts_per_tok=shape.routing.top_k, norm_topk_prob=shape.routing.renormalise)
    config._experts_implementation = way
    torch.manual_seed(seed)
    ours, theirs = MoELayer(width, shape).eval(), OlmoeSparseMoeBlock(config).eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    theirs.gate.weight, theirs.experts.gate_up_proj, theirs.experts.down_proj = (
        ours.router.weight, ours.gate_up_XGE, ours.down_XEM)
    return ours, theirs


def speed(rounds: int = 15) -> Iterator[Comparison[Timing]]:
    """At batch 1, steps of several widths; a ratio is the median over rounds of theirs / ours."""
    installed = version("transformers")
    if int(installed.partition(".")[0]) < 5:
        console.print(f"experts of transformers: not timed, since {installed} keeps them one by one; 5 or newer holds "
                      "them together", markup=False)
        return
    for way in _WAYS:
        layers = cache(partial(pair, way=way))
        for num_positions in _POSITIONS:
            for name, count in (("warm", 1), ("cold", _NUM_COLD)):
                step = f"{num_positions} position{'s' * (num_positions > 1)}, {name}"
                of = {"shape": describe(SHAPE), "width": WIDTH, "way": way, "num_positions": num_positions,
                      "num_inputs": count, "calls_a_round": _NUM_COLD, "rounds": rounds}
                yield Comparison("transformers, experts", f"times, {way}, {step}", of,
                                 partial(_timed, layers, way, step, num_positions, count, rounds))


@torch.inference_mode()
def _timed(layers: Callable[[], tuple[MoELayer, Any]], way: str, step: str, num_positions: int, num_inputs: int,
           rounds: int) -> Timing:
    ours, theirs = layers()
    torch.manual_seed(num_positions)
    inputs = [torch.randn(1, num_positions, WIDTH) for _ in range(num_inputs)]

    def each(layer: Any) -> None:
        for x in [*inputs] * (_NUM_COLD // len(inputs)):
            layer(x)

    largest = max(float((ours(x) - theirs(x)).abs().max() / theirs(x).abs().max()) for x in inputs)
    turns = interleaved(lambda: each(ours), lambda: each(theirs), rounds)
    own, peer = 1e3 * turns.own / _NUM_COLD, 1e3 * turns.peer / _NUM_COLD
    touched = sum(len(ours.router(x).expert_BFA.unique()) for x in inputs) / len(inputs)
    read = touched * 3 * WIDTH * SHAPE.expert_width * ours.down_XEM.element_size() / own / 1e6
    aim = f" (aim: {_AIM[way]:g})" if way in _AIM else ""
    text = (f"experts of transformers ({way}), width {WIDTH}, {SHAPE.num_experts} of {SHAPE.expert_width}, "
            f"top-{SHAPE.routing.top_k}, {step}: ours {own:.3f} ms, theirs {peer:.3f}, ratio {turns.ratio:.2f}{aim}; "
            f"{touched:.1f} experts, {read:.1f} GB/s of weights; largest difference {largest:.0e}")
    figures = turns.to_json() | {
        "dtype": str(ours.down_XEM.dtype).removeprefix("torch."), "ours_ms": own, "theirs_ms": peer,
        "experts_touched": touched, "gigabytes_per_second": read, "largest_difference": largest}
    return Timing(text, figures, largest < 1e-5)
