"""The wheel, installed in an empty environment outside the repository, runs the README's Python example."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Nothing warns, but what a newer library calls deprecated.
STRICTLY = ("-W", "error", "-W", "default::DeprecationWarning", "-W", "default::PendingDeprecationWarning",
            "-W", "default::FutureWarning")
BEGINNING = "[3, 1, 4, "
"""What the example prints first: its prompt."""


def readme_example() -> str:
    """The README's only Python block."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    return block


def test_the_readme_example_is_ten_lines() -> None:
    assert len([line for line in readme_example().splitlines() if line.strip()]) <= 10


@pytest.mark.slow
def test_the_wheel_is_complete_and_runs_on_its_own(tmp_path: Path) -> None:
    def run(*command: str | Path) -> str:
        finished = subprocess.run([str(part) for part in command], cwd=tmp_path, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout + finished.stderr

    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(
        ".*", "build", "results", "runs", "*.egg-info", "__pycache__"))
    (source / "kernels" / "tiles").mkdir(exist_ok=True)
    (source / "kernels" / "tiles" / "A_GPU.json").write_text("{}")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, source)
    (wheel,) = tmp_path.glob("quicksilver-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert "quicksilver/kernels/tiles/A_GPU.json" in held
    for folder in ("kernels", "models", "decoders", "experiments", "conf"):
        assert f"quicksilver/{folder}/py.typed" in held
        sources = {path.relative_to(ROOT).as_posix() for pattern in ("*.py", "*.yaml", "*.j2")
                   for path in (ROOT / folder).rglob(pattern)}
        assert {f"quicksilver/{path}" for path in sources} <= held
    assert not [name for name in held if name.startswith(("kernels/", "tests/", "quicksilver/tests/"))]
    run(sys.executable, "-m", "venv", tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[peers]")
    assert run(python, *STRICTLY, "-c", readme_example()).startswith(BEGINNING)
    composed = run(python, "-m", "quicksilver.experiments", "--cfg", "job")
    assert "quicksilver.experiments.frontier.experiment.Frontier" in composed
    printed = run(python, "-c", "import quicksilver.experiments.harness.records as r; print(r.__file__)")
    assert str(tmp_path) in printed
