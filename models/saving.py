"""A loaded model as a folder that transformers loads again.

    save(loaded, "path/to/new/folder")
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..kernels.atomic_file import UMASK
from .checkpoints.base import TensorInfo
from .checkpoints.gguf_file import GgufFile
from .checkpoints.published_folder import file_of, has_file
from .checkpoints.safetensors_folder import INDEX, SafetensorsFolder
from .checkpoints.safetensors_writer import NAMES, num_bytes_of, shard_names, sharded, write
from .families.tensor_names import Assignment
from .filling import dtypes_of, parts_of
from .loading import LoadedModel, names_unread
from .text.tokenizer_metadata import MODEL
from .text.tokenizer_writer import write_tokenizer

_SHARD_BYTES = 5_000_000_000
_DTYPES = "dtype", "torch_dtype"
# What is passed on as it was published.
_PASSED_ON = ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
              "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
              "chat_template.json")


def save(loaded: LoadedModel, folder: str | Path) -> None:
    """Write the weights as they are now, in their dtype and under their family's names, in shards of at most 5 GB, with
    the configuration, tokenizer, generation settings and the tensors of parts that were not read as published, or made
    of a GGUF file's keys. The folder must be new or empty, and is there whole or not at all. Python files of a
    checkpoint are not passed on.

    ValueError names a folder that holds something, or the key of a GGUF's tokenizer that cannot be read; OSError where
    the disk does not take it."""
    folder = Path(folder)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()) or (folder.is_dir() and any(folder.iterdir())):
        raise ValueError(f"{folder}: must be a new folder or an empty one, which is not written over")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        _write_weights(loaded, temporary)
        _write_json(temporary / "config.json", _configuration(loaded))
        _write_text(loaded, temporary)
        temporary.chmod(0o777 & ~UMASK)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _configuration(loaded: LoadedModel) -> dict[str, Any]:
    """As published, but for the dtype, under the names that it has there."""
    dtype = str(loaded.model.transformer.embedding.weight.dtype).removeprefix("torch.")
    named = [name for name in _DTYPES if name in loaded.published]
    return loaded.published | dict.fromkeys(named or _DTYPES[:1], dtype)


def _write_text(loaded: LoadedModel, folder: Path) -> None:
    if loaded.path.is_dir():
        for name in _PASSED_ON:
            if has_file(loaded.path, name):
                shutil.copyfile(file_of(loaded.path, name), folder / name)
    elif MODEL in GgufFile.opened(loaded.path).header.values:
        write_tokenizer(loaded.tokenizer, folder)


def _write_weights(loaded: LoadedModel, folder: Path) -> None:
    transformer = loaded.model.transformer
    assignments = list(loaded.description.names.assignments(transformer.config))
    dtypes = dtypes_of(transformer)
    infos = {part.name: TensorInfo(part.shape, NAMES[dtypes[assignment.target]])
             for assignment in assignments for part in assignment.parts}
    tensors = _tensors(loaded, assignments)
    if loaded.description.unread:
        published = SafetensorsFolder.opened(loaded.path)
        unread = names_unread(published, loaded.description)
        infos |= {name: published.tensors[name] for name in unread}
        tensors = chain(tensors, map(published.read, unread))
    shards = sharded(infos, _SHARD_BYTES)
    files = shard_names(len(shards))
    for file, names in zip(files, shards, strict=True):
        write(folder / file, {name: infos[name] for name in names}, islice(tensors, len(names)))
    if len(files) > 1:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        metadata = {"total_size": sum(map(num_bytes_of, infos.values()))}
        _write_json(folder / INDEX, {"metadata": metadata, "weight_map": weight_map})


def _tensors(loaded: LoadedModel, assignments: list[Assignment]) -> Iterator[Tensor]:
    with torch.no_grad():
        for _, tensor in parts_of(loaded.model.transformer, assignments):
            yield tensor


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
