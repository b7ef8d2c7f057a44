"""Say what a published model is: python -m quicksilver.experiments experiment=inspect model.path=FOLDER

Nothing of its weights is read. The least time of a step is the roofline's, for a named card and for this machine, which
is measured first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...kernels.case import Cost
from ...kernels.checks import check_integer, check_real
from ...models import BlockCausal, Causal, Description, ExpertShape, Shape
from ...models.filling import without_memory
from ..harness.machine import this_machine
from ..harness.roofline import CARDS, Card
from .checkpoint import PublishedModel

_DTYPES = "float32", "bfloat16", "float16"


@dataclass(frozen=True)
class Inspection:
    """The model with weights of `dtype`: what a step of each of `blocks` positions after each of `contexts` (or as many
    as the model has) takes at least on `card` and, unless machine_seconds is 0, on this CPU with `threads`, whose rates
    are measured for so long each."""

    model: PublishedModel
    dtype: str
    threads: int
    contexts: Sequence[int]
    blocks: Sequence[int]
    card: str
    machine_seconds: float

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype={self.dtype!r}: must be one of {', '.join(_DTYPES)}")
        if self.card not in CARDS:
            raise ValueError(f"card={self.card!r}: must be one of {', '.join(CARDS)}")
        for name, values in (("contexts", self.contexts), ("blocks", self.blocks)):
            if not values:
                raise ValueError(f"{name}=[]: needs at least one")
            for value in values:
                check_integer(name, value)
        check_integer("threads", self.threads)
        check_real("machine_seconds", self.machine_seconds, at_least=0)

    def check(self) -> None:
        """ValueError with the reason if the checkpoint's configuration cannot be read."""
        self.model.check()

    def run(self, folder: Path) -> int:
        """Print it. Returns 0."""
        for name, text in self._facts(self.model.description()):
            print(f"{name:<14}{text}")
        return 0

    def _facts(self, description: Description) -> Iterator[tuple[str, str]]:
        config, size = description.config, getattr(torch, self.dtype).itemsize
        shape = config.shape
        transformer = without_memory(config, torch.float32)
        num_weights, active = transformer.num_parameters(), transformer.num_active_parameters()
        yield "model", f"{self.model.path}: {description.architecture}"
        yield "layers", _layers(shape)
        if shape.experts is not None:
            yield "experts", _experts(shape.experts)
        if description.unread:
            yield "not read", ", ".join(description.unread)
        yield "vocabulary", f"{config.vocab_size:,} tokens{', the head tied to it' if shape.tied_embeddings else ''}"
        yield "parameters", f"{num_weights:,}, of which a position uses {active:,}"
        yield "memory", (f"{num_weights * size / 1e9:.2f} GB in {self.dtype}, and "
                         f"{config.kv_bytes_per_position(size) / 1e3:.1f} kB for each stored position")
        yield "attention", _attention(description)
        yield "positions", f"{config.max_length:,}"
        yield "special ids", _special_ids(description)
        cards = [CARDS[self.card]]
        if self.machine_seconds:
            torch.set_num_threads(self.threads)
            cards.append(this_machine(self.dtype, self.machine_seconds))
        longest = config.max_length - max(self.blocks)
        for card in cards:
            for context in sorted({min(context, longest) for context in self.contexts}):
                steps = ", ".join(f"{block} {1e3 * self._seconds(description, card, context, block):.3g} ms"
                                  for block in self.blocks)
                yield "least a step", f"{card.name}, {self.dtype}, after {context:,} positions; of {steps}"

    def _seconds(self, description: Description, card: Card, context: int, block: int) -> float:
        config = description.config
        num_bytes = config.forward_bytes(block, context, block, bytes_per_element=getattr(torch, self.dtype).itemsize)
        cost = Cost(num_bytes, config.forward_flops(block, block * (context + block), block))
        return card.step_seconds(config.shape, 1, block, cost, self.dtype)


def _layers(shape: Shape) -> str:
    kept = "" if shape.num_kv_heads == shape.num_heads else f", {shape.num_kv_heads} of keys and values"
    windows = f"; {len(shape.windowed_layers)} see {shape.window:,} positions" if shape.windowed_layers else ""
    kinds = set(shape.all_heads)
    if len(kinds) > 1 and windows:
        full = next(heads for layer, heads in enumerate(shape.all_heads) if layer not in shape.windowed_layers)
        of = "keys that are values too" if full.values_are_keys else "keys and values"
        windows += f", the others have {full.num_heads} heads of {full.width}, {full.num_kv_heads} of {of}"
    return (f"{shape.num_layers} of width {shape.width:,}, {shape.num_heads} heads of {shape.head_width}{kept}, "
            f"feed-forward {shape.ffn_width:,}{windows}")


def _experts(experts: ExpertShape) -> str:
    shared = f", and a shared one of {experts.shared_width:,}" if experts.shared_width else ""
    shared += ", beside a dense network" if experts.beside_dense else ""
    return (f"{experts.num_experts} of {experts.expert_width:,}, {experts.routing.top_k} for each position by "
            f"{experts.routing.scoring.value}{shared}")


def _attention(description: Description) -> str:
    pattern = description.config.attention
    if isinstance(pattern, Causal):
        kind = "causal"
    elif isinstance(pattern, BlockCausal):
        kind = f"causal by blocks of {pattern.block}"
    else:
        kind = "bidirectional"
    if description.config.shape.denoiser:
        kind += "; of a canvas of random tokens that is denoised, both ways"
    return f"{kind}; a position's logits are of {'the next' if description.shift else 'its own'} token"


def _special_ids(description: Description) -> str:
    mask = "none" if description.mask_id is None else str(description.mask_id)
    named = ", ".join(f"{name} {value}" for name, value in description.special_ids.items())
    return f"mask {mask}{', ' if named else ''}{named}"
