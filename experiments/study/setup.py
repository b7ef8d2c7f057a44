"""The setup of a task in an experiment: its matched models and the settings at which they are decoded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...decoders import (
    Append,
    BlockCausalCache,
    BlockCausalCacheApart,
    Cache,
    Decoder,
    Greedy,
    Recompute,
    Sampler,
    Whole,
    Windows,
)
from ...kernels.checks import check_integer
from ..tasks.base import Task
from ..training.recipe import Recipe


def family_for(decoder: Decoder) -> str:
    """The family of models that the decoder's cache requires; diffusion if it requires none."""
    if isinstance(decoder.cache, Append):
        return "autoregressive"
    return "block_diffusion" if isinstance(decoder.cache, (BlockCausalCache, BlockCausalCacheApart)) else "diffusion"


@dataclass(frozen=True)
class TaskSetup:
    """A task with the recipes of its matched pair and the settings at which it is decoded: the first order with all
    `steps` (1 commits a whole window at once), the others with `ablation_steps`, often the most alone. Presets in
    blocks use blocks of `block_size`; those for block-causal models decode the model of the recipe `block_diffusion`,
    in its own blocks."""

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

    @property
    def recipes(self) -> Mapping[str, Recipe]:
        """The recipe of each family. For block diffusion it is `block_diffusion`, or `diffusion` if that is None."""
        return {"autoregressive": self.autoregressive, "diffusion": self.diffusion,
                "block_diffusion": self.block_diffusion or self.diffusion}

    def recipe(self, family: str) -> Recipe:
        """The recipe of a family. ValueError names the families."""
        if family not in self.recipes:
            raise ValueError(f"family={family!r}: must be one of {', '.join(self.recipes)}")
        return self.recipes[family]
