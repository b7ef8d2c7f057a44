"""A symbolic link `latest` to the newest report in an output folder."""

import contextlib
import os
from pathlib import Path


def link_latest(folder: Path) -> None:
    """Point `latest`, next to `folder`, to it. Does nothing if links are not supported or `latest` is a folder."""
    temporary = folder.with_name(f".latest.{os.getpid()}")
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(folder.name, target_is_directory=True)
        temporary.replace(folder.with_name("latest"))
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
