"""kernels/README.md has a line for each file."""

from pathlib import Path

KERNELS = Path(__file__).resolve().parents[2] / "kernels"


def test_every_file_is_in_the_tables_of_the_readme() -> None:
    text = (KERNELS / "README.md").read_text()
    assert not [path.name for path in sorted(KERNELS.glob("*.py")) if f"[{path.stem}]({path.name})" not in text]
