"""The interface of an experiment to the command line, and its exceptions."""

import tempfile
from pathlib import Path
from typing import Protocol


class Experiment(Protocol):
    """What the command line runs."""

    def check(self) -> None:
        """ValueError with the reason if it cannot run. Called before any work."""
        ...

    def run(self, folder: Path) -> int:
        """Compute what is missing in `folder`. Returns the number of points that failed."""
        ...


class Unavailable(Exception):
    """A requirement of the experiment is unavailable for a reason other than its input. The message is one line."""


class PointsFailed(Exception):
    """Points failed, and their records say so. An exception, so that the other jobs of a multirun still run."""


def check_folder(name: str, folder: Path) -> None:
    """Create the folder if it is missing. ValueError names the option `name` if the folder is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{name}={str(folder)!r}: must be a folder that can be written ({error.strerror})") from None
