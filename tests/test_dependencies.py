"""What is asked of other libraries, and what a newer one of them may do without failing the tests."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLANTED = """
import types

def test_planted():
    module = types.ModuleType("{module}")
    exec("import warnings\\ndef warn(): warnings.warn('planted', {category}, stacklevel={level})", module.__dict__)
    module.warn()
"""


@pytest.mark.parametrize(("module", "category", "level", "fails"), [
    ("quicksilver.kernels.planted", "UserWarning", 1, True),
    ("quicksilver.kernels.planted", "RuntimeWarning", 1, True),
    ("library.planted", "UserWarning", 1, False),
    ("library.planted", "UserWarning", 2, True),  # shown at a line of ours, which caused it
    ("library.planted", "DeprecationWarning", 2, False),  # which an older library did not call deprecated
    ("library.planted", "FutureWarning", 2, False),
], ids=str)
def test_a_warning_fails_a_test_if_it_is_ours_and_names_no_later_version(
        module: str, category: str, level: int, fails: bool, tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_planted.py").write_text(PLANTED.format(module=module, category=category, level=level))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml",
               "--rootdir", tmp_path, tmp_path / "tests"]
    finished = subprocess.run([str(part) for part in command], cwd=tmp_path, capture_output=True, text=True)
    assert ("1 failed" in finished.stdout) == fails, finished.stdout
    assert ("1 passed, 1 warning" in finished.stdout) != fails, finished.stdout
    assert "planted" in finished.stdout
