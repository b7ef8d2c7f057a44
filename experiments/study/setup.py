"""What an experiment is told of a task: its matched models and the settings at which they are decoded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...decoders import Cache, Greedy, Recompute, Sampler, Whole, Windows
from ...kernels.checks import check_integer
from ..tasks.base import Task
from ..training.trainer import Recipe


@dataclass(frozen=True)
class TaskSetup:
    """A task with the recipes of its matched pair and the settings at which it is decoded: the first order at all
    `steps`, the others at `ablation_steps`. Presets in blocks take blocks of `block_size`; those of block-causal models
    decode the model of the recipe `block_diffusion`, in its own blocks."""

    task: Task
    diffusion: Recipe
    autoregressive: Recipe
    steps: Sequence[int]
    ablation_steps: Sequence[int]
    windows: Windows = field(default_factory=Whole)
    cache: Cache = field(default_factory=Recompute)
    block_diffusion: Recipe | None = None
    block_size: int = 1
    samplers: Mapping[str, Sampler] = field(default_factory=lambda: {"greedy": Greedy()})

    def __post_init__(self) -> None:
        check_integer("block_size", self.block_size)
        if not self.steps:
            raise ValueError("steps=[]: needs at least one number of steps")
        for name in ("steps", "ablation_steps"):
            values = getattr(self, name)
            for steps in values:
                check_integer(name, steps)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}={list(values)}: must all be different")
