"""transformers' mixture of experts (OLMoE's block) beside ours on a CPU: same weights and positions, with its loop over
experts ("eager") and with torch's grouped product. (Its batched one copies weights for every position: the slowest.)

A step of few positions is bound by reading the weights of the experts that they choose. `warm` asks about the same
positions again and again, whose experts then lie in a cache where they fit there; `cold` about others each time.
"""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import torch

from ...kernels.moe_router import Routing
from ...models import ExpertShape, Mixture
from ..agreement import in_turns
from .speed import Line

WIDTH = 512
SHAPE = ExpertShape(num_experts=64, expert_width=256, routing=Routing(8))
_WAYS = ("eager", "grouped_mm")
_POSITIONS = (1, 4, 8, 32, 128)
_NUM_COLD = 16
_AIM = {"eager": 1.2}


def pair(shape: ExpertShape = SHAPE, width: int = WIDTH, seed: int = 0, way: str = "eager") -> tuple[Mixture, Any]:
    """Our layer and theirs with the same random weights; theirs multiplies in the way that is named."""
    from transformers import OlmoeConfig  # pyright: ignore[reportMissingImports]
    from transformers.models.olmoe.modeling_olmoe import (  # pyright: ignore[reportMissingImports]
        OlmoeSparseMoeBlock,
    )

    config = OlmoeConfig(hidden_size=width, intermediate_size=shape.expert_width, num_experts=shape.num_experts,
                         num_experts_per_tok=shape.routing.top_k, norm_topk_prob=shape.routing.renormalise)
    config._experts_implementation = way
    torch.manual_seed(seed)
    ours, theirs = Mixture(width, shape).eval(), OlmoeSparseMoeBlock(config).eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    theirs.gate.weight, theirs.experts.gate_up_proj, theirs.experts.down_proj = (
        ours.router.weight, ours.gate_up_XGE, ours.down_XEM)
    return ours, theirs


@torch.inference_mode()
def speed(rounds: int = 15) -> Iterator[Line]:
    """At batch 1, steps of several widths; a ratio is the median over rounds of theirs / ours."""
    installed = version("transformers")
    if int(installed.partition(".")[0]) < 5:
        yield Line(f"experts of transformers: not timed, since {installed} keeps them one by one; 5 or newer holds "
                   "them together")
        return
    for way in _WAYS:
        ours, theirs = pair(way=way)
        for num_positions in _POSITIONS:
            for name, count in (("warm", 1), ("cold", _NUM_COLD)):
                inputs = [torch.randn(1, num_positions, WIDTH) for _ in range(count)]
                yield _line(ours, theirs, way, f"{num_positions} position{'s' * (num_positions > 1)}, {name}", inputs,
                            rounds)


def _line(ours: Mixture, theirs: Any, way: str, step: str, inputs: Sequence[torch.Tensor], rounds: int) -> Line:
    def each(layer: Any) -> None:
        for x in [*inputs] * (_NUM_COLD // len(inputs)):
            layer(x)

    largest = max(float((ours(x) - theirs(x)).abs().max() / theirs(x).abs().max()) for x in inputs)
    own, peer, ratio = in_turns(lambda: each(ours), lambda: each(theirs), rounds)
    touched = sum(len(ours.router(x).expert_BFA.unique()) for x in inputs) / len(inputs)
    read = touched * 3 * WIDTH * SHAPE.expert_width * 4 * _NUM_COLD / own / 1e9
    aim = f" (aim: {_AIM[way]:g})" if way in _AIM else ""
    return Line(f"experts of transformers ({way}), width {WIDTH}, {SHAPE.num_experts} of {SHAPE.expert_width}, "
                f"top-{SHAPE.routing.top_k}, {step}: ours {1e3 * own / _NUM_COLD:.3f} ms, theirs "
                f"{1e3 * peer / _NUM_COLD:.3f}, ratio {ratio:.2f}{aim}; {touched:.1f} experts, {read:.1f} GB/s of "
                f"weights; largest difference {largest:.0e}", largest < 1e-5)
