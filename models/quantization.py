"""A model's linear layers in four or eight bits (kernels/quantized_linear.py), on a CPU:

    int4   groups of 32 in 4 bits, the head in 8
    int8   rows in 8 bits

Of a GGUF file, what is in blocks of that many bits, or for int4 of more, keeps its own values. All else, an embedding
that is not tied and experts among it, stays in the floats that activations have."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ..kernels.quantized_linear import Form, fits, has_operators, num_bytes_of, quantized
from .checkpoints.base import Checkpoint
from .checkpoints.gguf_blocks import forms, grouped
from .checkpoints.gguf_file import GgufFile
from .families.tensor_names import Assignment, Part
from .linear import Linear
from .transformer import Transformer

FORMATS = {"int4": Form.INT4, "int8": Form.INT8_ROWS}
_FLOATS = frozenset({"F32", "F16", "BF16", "F64"})


@dataclass(frozen=True)
class Quantization:
    """A packing (packing.py) in which layers hold nothing but the quantised weight. ValueError unless the format is
    int4 or int8, and this PyTorch can multiply it."""

    format: str

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format={self.format!r}: must be one of {', '.join(FORMATS)}")
        if not has_operators():
            raise ValueError(f"format={self.format!r}: this PyTorch does not multiply weights of so few bits")

    def pack(self, transformer: Transformer) -> None:
        """Quantise the linear layers that are not yet, and whose width is a multiple of 32. ValueError where there is
        none, or on another device."""
        if transformer.norm.weight.device.type != "cpu":
            raise ValueError(f"format={self.format!r} on {transformer.norm.weight.device}: must be on cpu")
        if not any(fits(layer.in_features) for layer in transformer.linear_layers):
            raise ValueError(f"format={self.format!r}: no layer is as wide as a multiple of 32")
        for _, layer in list(_layers(transformer)):
            if not layer.is_quantized:
                layer.quantize(quantized(layer.weight.detach(), self.form_of(layer, transformer)))

    def form_of(self, layer: Linear, transformer: Transformer) -> Form:
        """How a layer of floats is to be held."""
        form = FORMATS[self.format]
        return Form.INT8_GROUPS if form is Form.INT4 and layer is transformer.head else form


class QuantizedFilling:
    """The weights of a checkpoint, quantised one at a time as they are read."""

    def __init__(self, quantization: Quantization, transformer: Transformer, checkpoint: Checkpoint,
                 assignments: Iterable[Assignment]) -> None:
        self._checkpoint = checkpoint
        self._layers = dict(_layers(transformer))
        self._forms: dict[str, Form] = {}
        for assignment in assignments:
            if assignment.target in self._layers:
                wanted = quantization.form_of(self._layers[assignment.target], transformer)
                self._forms[assignment.target] = self._form(assignment.parts, wanted)

    def _types(self, parts: Sequence[Part]) -> set[str]:
        return {self._checkpoint.tensors[part.name].dtype for part in parts}

    def _form(self, parts: Sequence[Part], wanted: Form) -> Form:
        """What a file holds in more than four bits is not rounded to four."""
        if not isinstance(self._checkpoint, GgufFile) or self._types(parts) <= _FLOATS:
            return wanted
        if self._keeps(parts):
            own = {forms()[kind] for kind in self._types(parts)}
            if wanted is not Form.INT8_ROWS or own == {Form.INT8_GROUPS}:
                return Form.INT8_GROUPS if Form.INT8_GROUPS in own else Form.INT4
        return wanted if wanted is Form.INT8_ROWS else Form.INT8_GROUPS

    def _keeps(self, parts: Sequence[Part]) -> bool:
        return isinstance(self._checkpoint, GgufFile) and self._types(parts) <= set(forms())

    @property
    def saved_bytes(self) -> int:
        """How much less the layers take than in the dtype of activations."""
        return sum(layer.weight.nbytes - num_bytes_of((layer.out_features, layer.in_features), self._forms[name])
                   for name, layer in self._layers.items())

    @property
    def words(self) -> str:
        """How the layers are held."""
        return ", ".join(sorted({form.value for form in self._forms.values()}))

    def kept(self, assignment: Assignment) -> bool:
        """Whether the tensors were taken as the file holds them. ValueError names one with values that are not
        finite."""
        name, parts, checkpoint = assignment.target, assignment.parts, self._checkpoint
        if name not in self._forms or self._forms[name] is Form.INT8_ROWS or not isinstance(checkpoint, GgufFile) or (
                not self._keeps(parts)):
            return False
        raw = [(kind, torch.from_numpy(blocks)) for kind, blocks in (checkpoint.raw(part.name) for part in parts)]
        try:
            weight = grouped(raw)
        except ValueError as error:
            named = ", ".join(checkpoint.sources[part.name].tensor.name for part in parts)
            raise ValueError(f"{checkpoint.path}: tensor {named}: {error}") from None
        self._layers[name].quantize(weight)
        return True

    def filled(self, name: str) -> None:
        """Quantise a parameter that is whole, if it is to be."""
        layer = self._layers.get(name)
        if layer is not None and not layer.is_quantized:
            layer.quantize(quantized(layer.weight.detach(), self._forms[name]))


def _layers(transformer: Transformer) -> Iterator[tuple[str, Linear]]:
    """The linear layers that can be quantised, by the names of their weights; of a tied head, the embedding's."""
    owners = {id(layer.weight): layer for layer in transformer.linear_layers if fits(layer.in_features)}
    for name, parameter in transformer.named_parameters():
        if id(parameter) in owners:
            yield name, owners[id(parameter)]

