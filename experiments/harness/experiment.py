"""What an experiment is to the command line, and how it ends."""

import tempfile
from pathlib import Path
from typing import Protocol


class Experiment(Protocol):
    """What the command line runs."""

    def check(self) -> None:
        """ValueError with the reason if it could not be run; before anything is made."""
        ...

    def run(self, folder: Path) -> int:
        """Make what is missing in `folder`. Returns how many points failed."""
        ...


class Unavailable(Exception):
    """What an experiment needs could not be had, for a reason outside of its input; the message is one line."""


class PointsFailed(Exception):
    """Points failed and are recorded as such. An exception, so that the other jobs of a multirun still run."""


def check_folder(name: str, folder: Path) -> None:
    """ValueError where no file can be made in the folder that the option `name` names; it is made if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{name}={str(folder)!r}: must be a folder that can be written ({error.strerror})") from None
