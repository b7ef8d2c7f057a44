"""How a model's weights are packed for products on a CPU (kernels/packed_linear.py), fixed for a run by the model.

    beside   a second copy of what pays, where memory allows: what is trained between decodes is kept as it lies
    alone    one copy, where packing pays for every number of rows that a decoder feeds: a loaded model takes the memory
             of its weights once

Either way they lie on huge pages where Linux has some (kernels/huge_pages.py).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..kernels.checks import real_field
from ..kernels.host_memory import free_memory_bytes
from ..kernels.huge_pages import use_huge_pages
from ..kernels.packed_linear import pays
from .linear import Linear
from .mixture import MoELayer
from .transformer import Transformer


class Packing(Protocol):
    def pack(self, transformer: Transformer) -> None:
        """Pack what pays."""
        ...


@dataclass(frozen=True)
class PackedBeside:
    def pack(self, transformer: Transformer) -> None:
        transformer.pack()
        _lay_out(transformer)


@dataclass(frozen=True)
class PackedAlone:
    """What cannot be held packed alone, as a head tied to the embedding, is packed beside it if all such weights take
    at most `most_beside` of what the layers' weights take."""

    most_beside: float = 0.25

    def __post_init__(self) -> None:
        real_field(self, "most_beside", at_least=0)

    def pack(self, transformer: Transformer) -> None:
        pack_alone = self.packer(transformer)
        for name, _ in transformer.named_parameters():
            pack_alone(name)
        layers, num_bytes = transformer.linear_layers, _bytes_of(transformer.layers_to_pack)
        for layer in transformer.layers_to_pack:
            layer.drop_copy()
        rest = [layer for layer in layers if not layer.is_only_packed and pays(layer.weight, num_bytes)]
        if _bytes_of(rest) <= min(self.most_beside * num_bytes, free_memory_bytes() // 2):
            for layer in rest:
                layer.pack(num_bytes)
        _lay_out(transformer)

    def packer(self, transformer: Transformer) -> Callable[[str], None]:
        """What packs a parameter by its name, alone, if it is a layer's own weight and that pays: for one who fills
        them in turn, and should not have all of them as they lie at any time."""
        holders = Counter(id(parameter) for module in transformer.modules()
                          for parameter in module.parameters(recurse=False))
        num_bytes = _bytes_of(transformer.layers_to_pack)
        owners = {f"{name}.weight": layer for name, layer in transformer.named_modules()
                  if isinstance(layer, Linear) and holders[id(layer.weight)] == 1}

        def pack_alone(name: str) -> None:
            if name in owners:
                owners[name].pack_alone(num_bytes)

        return pack_alone


def _lay_out(transformer: Transformer) -> None:
    """Have the packed weights on huge pages, as far as Linux can."""
    use_huge_pages(layer.packed.packed for layer in transformer.linear_layers if layer.packed is not None)


def _bytes_of(layers: Sequence[Linear | MoELayer]) -> int:
    return sum(layer.num_weight_bytes for layer in layers)
