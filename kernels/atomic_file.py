"""Putting files in place whole: a reader sees the old file or the new one, never half of one.

`atomic_write` is the only way in which this project writes results and weights.
"""

import os
import tempfile
from pathlib import Path

# mkstemp makes private files; what is put in place gets the permissions that open() would have given.
UMASK = os.umask(0)
os.umask(UMASK)


def atomic_write(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, flush it to the disk, then rename: on any failure `path` is as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o666 & ~UMASK)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def clear_temporaries(path: Path) -> None:
    """Remove what a killed process left of its writes to `path`. Only for whoever holds the right to write it."""
    for stale in path.parent.glob(f".{path.name}.*"):
        stale.unlink(missing_ok=True)
