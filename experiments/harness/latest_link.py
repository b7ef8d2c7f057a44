"""A link `latest` to the newest of the reports that lie side by side in an output folder."""

import contextlib
import os
from pathlib import Path


def link_latest(folder: Path) -> None:
    """Let `latest` beside a folder link to it. Nothing is done where there can be no link, or is a folder of that name.
    """
    temporary = folder.with_name(f".latest.{os.getpid()}")
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(folder.name, target_is_directory=True)
        temporary.replace(folder.with_name("latest"))
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
