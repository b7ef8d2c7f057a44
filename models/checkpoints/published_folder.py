"""The files of a published folder. None outside it is read, but for those of Hugging Face's cache, whose folders link
to files that several revisions share:

    models--owner--name/snapshots/<revision>/config.json -> ../../blobs/<hash>
"""

from pathlib import Path

from ...kernels.checks import shown


def file_of(folder: Path, name: str) -> Path:
    """The path of a file of the folder. ValueError names one that is missing, is no plain file, or lies elsewhere."""
    path = folder / name
    if not name or not name.isprintable() or Path(name).name != name:
        raise ValueError(f"{folder}: file {shown(name)}: must be the name of a file of this folder")
    try:
        found, own = path.resolve(strict=True), folder.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # a loop of links is a RuntimeError of Python 3.11
        raise ValueError(f"{path}: no such file") from None
    if found.parent != own and not (own.parent.name == "snapshots" and found.parent == own.parents[1] / "blobs"):
        raise ValueError(f"{path}: links to {found}, outside its folder, which is not read")
    if not found.is_file():
        raise ValueError(f"{path}: must be a plain file")
    return path


def has_file(folder: Path, name: str) -> bool:
    """Whether there is something of that name, be it a link to nothing."""
    path = folder / name
    return path.exists() or path.is_symlink()
