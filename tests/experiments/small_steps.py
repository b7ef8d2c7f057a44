"""Small points of the step benchmark for its tests."""

from quicksilver.experiments.step_bench.point import ModelShape, StepPoint
from quicksilver.kernels.moe_router import Routing, Scoring
from quicksilver.models import ExpertShape, FusedHead, Head, SeparateHead, Shape

DENSE = Shape(width=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_width=48, qk_norm=True, position_table=False)
ROUTING = Routing(2, Scoring.SIGMOID, num_groups=4, groups_kept=2, renormalise=True, scale=2.5)
MIXED = Shape(width=32, num_layers=3, num_heads=4, num_kv_heads=2, ffn_width=48, position_table=False,
              experts=ExpertShape(16, 8, ROUTING, shared_width=8, num_dense_layers=1, selection_bias=True))
HEADS: dict[str, Head] = {"separate": SeparateHead(), "fused": FusedHead()}


def point(shape: Shape = DENSE, block: int | None = 4, head: str = "separate", kernels: str = "reference",
          dtype: str = "float32") -> StepPoint:
    return StepPoint("small", ModelShape(40, shape), 8, block, head, HEADS[head], kernels, dtype, 20)


def name(value: object) -> str | None:
    return value.label.replace(" ", "_") if isinstance(value, StepPoint) else None
