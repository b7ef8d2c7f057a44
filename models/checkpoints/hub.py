"""Where a checkpoint lies: a path, or a name of Hugging Face's hub, whose files its library fetches or finds in its
cache.

The library is optional. Its settings count: HF_HUB_OFFLINE, HF_HOME, HF_TOKEN.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from ...kernels.checks import shown

# Weights in the formats that are read, and text; no code and no pickles, nor the copies of other libraries in folders
# and under other names.
_FETCHED = ["*.json", "*.safetensors", "*.jinja", "merges.txt", "vocab.txt", "tokenizer*.model", "*.tiktoken"]
_LEFT = ["*/*", "consolidated*", "*.py", "*.bin"]
_PART = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_NAME = re.compile(rf"({_PART}/{_PART})(?:/({_PART}\.gguf))?")


def located(source: str | Path, revision: str | None = None) -> Path:
    """The folder or file of a path, which counts first, or of "owner/name" or "owner/name/file.gguf" on the hub, at a
    revision (branch, tag or commit; None: its main branch). ValueError where there is none, or it cannot be fetched."""
    if str(source) and Path(source).exists():
        if revision is not None:
            raise ValueError(f"revision={shown(revision)}: {source} is a path here, which has none")
        return Path(source)
    named = _NAME.fullmatch(source) if isinstance(source, str) else None
    if named is None:
        raise ValueError(f"{source}: no such folder, and no name of the form owner/name")
    name, file = named.groups()
    hub = _library(name)
    if file is not None:
        return _fetched(source, lambda: hub.hf_hub_download(name, file, revision=revision))
    return _fetched(source, lambda: _snapshot(hub, name, revision))


def _snapshot(hub: ModuleType, name: str, revision: str | None) -> str:
    """The folder of a revision; from the cache where some versions of the library ask the network for a commit that is
    there."""
    options: dict[str, Any] = {"revision": revision, "allow_patterns": _FETCHED, "ignore_patterns": _LEFT}
    try:
        return hub.snapshot_download(name, **options)
    except Exception:
        with suppress(Exception):
            return hub.snapshot_download(name, **options, local_files_only=True)
        raise


def _library(name: str) -> ModuleType:
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError(f"{name}: no such folder, and to fetch it from Hugging Face's hub huggingface_hub must be "
                         "installed") from None
    return huggingface_hub


def _fetched(source: str | Path, fetch: Callable[[], str]) -> Path:
    try:
        return Path(fetch())
    except Exception as error:  # of the network's libraries too, which are others with every version
        reason = " ".join(str(error).split())
        raise ValueError(f"{source}: no such folder, and not to be had from Hugging Face's hub "
                         f"({type(error).__name__}: {reason[:300]})") from None
