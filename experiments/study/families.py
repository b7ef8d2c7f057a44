"""Which of a task's models a decoder drives."""

from dataclasses import dataclass
from typing import Protocol

from ..training.trainer import Recipe
from .setup import TaskSetup


class Family(Protocol):
    """One of a task's models."""

    def recipe(self, setup: TaskSetup) -> Recipe: ...


@dataclass(frozen=True)
class Diffusion:
    def recipe(self, setup: TaskSetup) -> Recipe:
        return setup.diffusion


@dataclass(frozen=True)
class Autoregressive:
    def recipe(self, setup: TaskSetup) -> Recipe:
        return setup.autoregressive


@dataclass(frozen=True)
class BlockDiffusion:
    """The block-causal model; a task's diffusion recipe where that is one already."""

    def recipe(self, setup: TaskSetup) -> Recipe:
        return setup.diffusion if setup.block_diffusion is None else setup.block_diffusion
