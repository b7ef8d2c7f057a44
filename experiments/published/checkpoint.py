"""A published checkpoint as an option of experiments."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...models import Description, LoadedModel, describe_checkpoint, load
from ..harness.progress import console


@dataclass(frozen=True)
class PublishedModel:
    """The checkpoint at `path`, with the options of `models.load`."""

    path: str
    max_length: int | None = None
    mask_id: int | None = None
    ignoring: Sequence[str] = ()

    def description(self) -> Description:
        """What its configuration says, without its weights. ValueError as from `models.load`."""
        return describe_checkpoint(self.path, ignoring=self.ignoring)

    def load(self, dtype: torch.dtype, device: str) -> LoadedModel:
        """The model, its weights in `dtype` on `device`."""
        return load(self.path, dtype=dtype, device=device, max_length=self.max_length, mask_id=self.mask_id,
                    ignoring=self.ignoring, say=lambda line: console.print(line, markup=False))
