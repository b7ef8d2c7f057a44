"""A published checkpoint as an option of experiments."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...models import Description, LoadedModel, describe_checkpoint, load
from ..harness.progress import console


@dataclass(frozen=True)
class PublishedModel:
    """The checkpoint at `path`, a folder, a GGUF file or a name on Hugging Face's hub, with the options of
    `models.load`."""

    path: str
    revision: str | None = None
    max_length: int | None = None
    mask_id: int | None = None
    ignoring: Sequence[str] = ()

    def check(self) -> None:
        """ValueError if its configuration cannot be read."""
        self.description()

    def description(self) -> Description:
        """What its configuration says, without its weights. ValueError as from `models.load`."""
        return describe_checkpoint(self.path, max_length=self.max_length, ignoring=self.ignoring,
                                   revision=self.revision)

    def load(self, folder: Path, dtype: torch.dtype | str, device: str) -> LoadedModel:
        """The model, its weights in `dtype` on `device`; nothing is kept in `folder`."""
        return load(self.path, dtype=dtype, device=device, max_length=self.max_length, mask_id=self.mask_id,
                    ignoring=self.ignoring, revision=self.revision,
                    say=lambda line: console.print(line, markup=False))
