"""A Transformer's weights, between its places and the tensors of a checkpoint, one tensor at a time."""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .checkpoints.base import Checkpoint
from .config import TransformerConfig
from .families.tensor_names import Assignment, Part
from .only_packed import OnlyPacked
from .transformer import Transformer

# What is copied at a time, so that it is still in a core's cache when it is looked through.
_COPIED_BYTES = 4 << 20


class _NoInitialValues(TorchFunctionMode):
    """Leaves out torch.nn.init, which on the meta device imports torch's compiler: 70 MB, and seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def without_memory(config: TransformerConfig, dtype: torch.dtype) -> Transformer:
    """A Transformer without memory for its weights."""
    with torch.device("meta"), _NoInitialValues():
        return Transformer(config).to(dtype)


def made_room_for(transformer: Transformer, device: torch.device) -> Transformer:
    """A model that was made without memory, with memory for its weights, and its table of angles."""
    transformer = transformer.to_empty(device=device)
    if transformer.config.shape.tied_embeddings:
        transformer.head.weight = transformer.embedding.weight
    transformer.tabulate_angles()
    return transformer


def _not_kept(assignment: Assignment) -> bool:
    return False


def fill(transformer: Transformer, checkpoint: Checkpoint, assignments: Iterable[Assignment],
         filled: Callable[[str], None], kept: Callable[[Assignment], bool] = _not_kept) -> None:
    """Copy every tensor to its place, those of the largest places first, but for what `kept` has taken as the file
    holds it; `filled` is told the name of each place that is whole, and may pack it. ValueError names a tensor that
    holds a number that is not finite in its dtype."""
    places = _places(transformer)
    # The memory of a place is taken when it is written, and what packing takes beside it is least at the end.
    ordered = sorted(assignments, key=lambda assignment: (-places[assignment.target].nbytes, assignment.target))
    with torch.no_grad():
        for target, same in groupby(ordered, key=lambda assignment: assignment.target):
            for assignment in same:
                if not kept(assignment):
                    _fill(places[target], checkpoint, assignment)
            filled(target)


def _fill(place: Tensor, checkpoint: Checkpoint, assignment: Assignment) -> None:
    for part, piece in _pieces(place, assignment):
        if not _copy_finite(piece, checkpoint.read(part.name)):
            raise ValueError(f"{checkpoint.path}: tensor {part.name}: holds a number that is not finite in "
                             f"{piece.dtype}")


def parts_of(transformer: Transformer, assignments: Iterable[Assignment]) -> Iterator[tuple[Part, Tensor]]:
    """Each tensor as a checkpoint has it: a view, or, of a weight that is held packed alone, a copy. Those of one
    assignment follow one another."""
    places = _places(transformer)
    for assignment in assignments:
        place = places[assignment.target]
        yield from _pieces(place.packed.dense() if isinstance(place, OnlyPacked) else place.detach(), assignment)


def dtypes_of(transformer: Transformer) -> dict[str, torch.dtype]:
    """By the targets of assignments."""
    return {name: place.dtype for name, place in _places(transformer).items()}


def _places(transformer: Transformer) -> dict[str, Tensor]:
    return dict(transformer.named_parameters()) | dict(transformer.named_buffers())


def _pieces(place: Tensor, assignment: Assignment) -> Iterator[tuple[Part, Tensor]]:
    place = place if assignment.expert is None else place[assignment.expert]
    pieces = place.split([part.shape[0] for part in assignment.parts])
    return zip(assignment.parts, pieces, strict=True)


def _copy_finite(target: Tensor, source: Tensor) -> bool:
    """Copy, and whether all that was copied is finite; as soon as something is not, the rest is left."""
    rows = max(1, _COPIED_BYTES * len(target) // max(1, target.nbytes)) if target.device.type == "cpu" else len(target)
    for target_rows, source_rows in zip(target.split(rows), source.split(rows), strict=True):
        least, most = target_rows.copy_(source_rows).aminmax()  # of NaN both are NaN
        if not (least.isfinite() and most.isfinite()):
            return False
    return True
