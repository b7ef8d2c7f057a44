"""Published checkpoints as models to decode: load, and save as transformers reads them.

    loaded = load("path/to/checkpoint")
    generate(loaded.model, presets.autoregressive(), ["Once upon"], num_new=32, tokenizer=loaded.tokenizer)
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..kernels.checks import check_integer
from ..kernels.host_memory import free_memory_bytes, give_back_unused
from .adapter import DecodableTransformer
from .checkpoints.base import Checkpoint
from .checkpoints.gguf_file import GgufFile
from .checkpoints.hub import located
from .checkpoints.safetensors_folder import SafetensorsFolder
from .config import TransformerConfig
from .families import Description, describe
from .families.tensor_names import Assignment
from .filling import fill, made_room_for, without_memory
from .heads import Head, SeparateHead
from .packing import PackedAlone
from .quantization import FORMATS, Quantization, QuantizedFilling
from .text import CheckpointTokenizer
from .transformer import Transformer

_DTYPES = torch.float32, torch.bfloat16, torch.float16, torch.float64
# Tables that some versions of transformers wrote, and that follow from the configuration.
_DERIVED = ".rotary_emb.inv_freq"
# How configurations call the number of layers.
_LAYERS = "num_hidden_layers", "n_layers"
# The table of angles may take as much as the weights, or so much.
_TABLE_BYTES = 64 << 20


@dataclass(frozen=True)
class LoadedModel:
    """A model, the folder or file that it comes from, its configuration as published and as its family reads it."""

    model: DecodableTransformer
    path: Path
    published: dict[str, Any]
    description: Description

    @cached_property
    def tokenizer(self) -> CheckpointTokenizer:
        """That of the checkpoint. ValueError where it has none, or one that cannot be read."""
        if self.path.is_dir():
            return CheckpointTokenizer.from_folder(self.path)
        return CheckpointTokenizer.from_gguf(GgufFile.opened(self.path).header.values, str(self.path))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def load(source: str | Path, *, dtype: torch.dtype | str | None = None, device: torch.device | str | None = None,
         max_length: int | None = None, mask_id: int | None = None, head: Head | None = None,
         ignoring: Sequence[str] = (), revision: str | None = None, say: Callable[[str], None] = _say) -> LoadedModel:
    """The model of a folder with config.json and safetensors, of a GGUF file, or of "owner/name" on Hugging Face's hub
    at a revision (None: the main branch), from its cache where there is no network. A folder of that name here counts
    first.

    dtype is that of the weights (None: float32 on a CPU, bfloat16 on a GPU); "int4" or "int8" holds those of linear
    layers in so few bits, on a CPU, and all else in float32 (models/quantization.py). device is where they go (None: a
    GPU where there is one), max_length how many positions can be decoded (None: as many as the configuration names),
    mask_id the mask token of a model that does not name its own. Fields of config.json that are not known are refused
    but for those of `ignoring`. `say` is told, before it is taken, how much memory the weights will take. No code of a
    checkpoint is run.

    ValueError names the field, tensor or file that is missing, unknown, damaged or of another shape or type, and says
    so where the weights do not fit the memory that is free."""
    checkpoint = _opened(located(source, revision))
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    float_dtype, quantization = _held(dtype, device)
    description = _described(checkpoint, ignoring, max_length)
    assignments = _checked(checkpoint, description)
    unread = names_unread(checkpoint, description)
    if unread:
        say(f"{checkpoint.path}: {len(unread)} tensors of {', '.join(description.unread)} not read: this library has "
            "no such part")
    transformer = without_memory(description.config, float_dtype)
    filling = None if quantization is None else QuantizedFilling(quantization, transformer, checkpoint, assignments)
    _check_memory(checkpoint.path, transformer, device, filling, say)
    transformer = made_room_for(transformer, device)
    packing = PackedAlone()
    if filling is None:
        fill(transformer, checkpoint, assignments, packing.packer(transformer))
    else:
        fill(transformer, checkpoint, assignments, filling.filled, filling.kept)
    give_back_unused()  # of what lay beside the weights as they were packed, before more is taken
    model = DecodableTransformer(transformer.eval(), _mask_id(description, mask_id), description.shift,
                                 head=SeparateHead() if head is None else head, packing=quantization or packing)
    if transformer.copied_bytes:
        say(f"{checkpoint.path}: {transformer.copied_bytes / 1e9:.2f} GB of it are held a second time, packed for "
            "faster products")
    return LoadedModel(model, checkpoint.path, checkpoint.config, description)


def _held(dtype: torch.dtype | str | None, device: torch.device) -> tuple[torch.dtype, Quantization | None]:
    """The dtype of floats, and how linear layers are quantised, if they are."""
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32, None
    name = str(dtype).removeprefix("torch.")  # which has an int4 and an int8 too
    if name in FORMATS:
        if device.type != "cpu":
            raise ValueError(f"dtype={name} with device={device}: must be on cpu")
        return torch.float32, Quantization(name)
    if dtype not in _DTYPES:
        raise ValueError(f"dtype={dtype}: must be one of {', '.join(map(str, (*_DTYPES, *FORMATS)))}")
    assert isinstance(dtype, torch.dtype)
    return dtype, None


def describe_checkpoint(source: str | Path, *, max_length: int | None = None, ignoring: Sequence[str] = (),
                        revision: str | None = None) -> Description:
    """What a checkpoint's configuration says, as `load` reads it."""
    return _described(_opened(located(source, revision)), ignoring, max_length)


def _described(checkpoint: Checkpoint, ignoring: Sequence[str], max_length: int | None) -> Description:
    _check_layers(checkpoint, checkpoint.config, _origin(checkpoint))
    description = describe(checkpoint.config, _origin(checkpoint), tuple(ignoring))
    if max_length is not None:
        length = check_integer("max_length", max_length, at_most=description.config.max_length)
        description = replace(description, config=replace(description.config, max_length=length))
    _check_table(checkpoint, description.config)
    return description


def _origin(checkpoint: Checkpoint) -> str:
    """Where the configuration lies."""
    return str(checkpoint.path / "config.json" if checkpoint.path.is_dir() else checkpoint.path)


def _opened(path: Path) -> Checkpoint:
    if not path.is_dir():
        if path.suffix == ".gguf":
            return GgufFile.opened(path)
        raise ValueError(f"{path}: no such folder")
    return SafetensorsFolder.opened(path)


def _mask_id(description: Description, mask_id: int | None) -> int:
    found = description.mask_id if mask_id is None else mask_id
    if found is not None:
        return check_integer("mask_id", found, at_least=0, at_most=description.config.vocab_size - 1)
    if description.needs_mask:
        raise ValueError("mask_id=None: the configuration does not name the mask token, which a diffusion model needs; "
                         "give its id")
    return description.config.vocab_size


def _check_layers(checkpoint: Checkpoint, values: dict[str, Any], origin: str) -> None:
    """ValueError if a configuration claims more layers than there are tensors, before anything is made for each."""
    for name, value in values.items():
        if name in _LAYERS and value is not None:
            check_integer(f"{origin}: {name}", value, at_most=max(1, len(checkpoint.tensors)))
        elif isinstance(value, dict):
            _check_layers(checkpoint, value, f"{origin}: {name}")


def _checked(checkpoint: Checkpoint, description: Description) -> list[Assignment]:
    """Where the tensors go. ValueError unless the checkpoint has those that the model needs, in their shapes, and no
    others."""
    tensors = checkpoint.tensors
    # One more than there can be, so that a configuration that claims a billion experts is not gone through.
    assignments = list(islice(description.names.assignments(description.config), len(tensors) + 1))
    wanted = {part.name: part.shape for assignment in assignments for part in assignment.parts}
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise ValueError(f"{checkpoint.path}: {_listed(missing)} missing")
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{checkpoint.path}: tensor {name} of shape {[*tensors[name].shape]}: must be {[*shape]}")
    tied = _tied_head(description)
    embedding = f"{description.names.embedding}.weight"
    if tied is not None and tied in tensors and not torch.equal(checkpoint.read(tied), checkpoint.read(embedding)):
        raise ValueError(f"{checkpoint.path}: tensor {tied}: must be the embedding, to which the configuration ties it")
    known = {*wanted, *names_unread(checkpoint, description), tied}
    unexpected = [name for name in tensors if name not in known and not name.endswith(_DERIVED)]
    if unexpected:
        raise ValueError(f"{checkpoint.path}: {_listed(unexpected)} unexpected: no part of the model that its "
                         "configuration describes")
    return assignments


def names_unread(checkpoint: Checkpoint, description: Description) -> list[str]:
    """The names of a checkpoint's tensors that belong to parts that are not here."""
    return [name for name in checkpoint.tensors if name.startswith(description.unread)] if description.unread else []


def _tied_head(description: Description) -> str | None:
    """The name of a head that is the embedding, which some files hold twice."""
    return f"{description.names.head}.weight" if description.config.shape.tied_embeddings else None


def _check_table(checkpoint: Checkpoint, config: TransformerConfig) -> None:
    """ValueError where a configuration claims so many positions that their angles would take more than the weights."""
    widths = config.shape.rope_width + (config.shape.window_rope_width if config.shape.window_rope_theta else 0)
    table_bytes = 2 * 4 * (config.max_length + 1) * widths
    weights_bytes = 4 * sum(math.prod(info.shape) for info in checkpoint.tensors.values())
    if table_bytes > max(weights_bytes, _TABLE_BYTES):
        raise ValueError(f"{checkpoint.path}: max_length={config.max_length:,}, that of the configuration where none "
                         f"is given: its rotary angles would take {table_bytes / 1e9:.2f} GB: must take less than the "
                         f"weights' {weights_bytes / 1e9:.2f} GB")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"tensor{'s' if len(names) > 1 else ''} {', '.join(names[:3])}{more}"


def _check_memory(path: Path, transformer: Transformer, device: torch.device, filling: QuantizedFilling | None,
                  say: Callable[[str], None]) -> None:
    num_bytes = sum(tensor.nbytes for tensor in (*transformer.parameters(), *transformer.buffers()))
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory_bytes()
    how = f"in {str(transformer.embedding.weight.dtype).removeprefix('torch.')}"
    if filling is not None:
        num_bytes, how = num_bytes - filling.saved_bytes, f"as {filling.words}, the rest {how},"
    size = f"{path}: {transformer.num_parameters():,} parameters, {num_bytes / 1e9:.2f} GB {how} on {device}"
    if free and num_bytes > free:
        raise ValueError(f"{size}: more than the {free / 1e9:.2f} GB that are free")
    say(size)
