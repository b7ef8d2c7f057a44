"""What is asked of other libraries, and what a newer one of them may do without failing the tests."""

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]
PLANTED = """
import types

def test_planted():
    module = types.ModuleType("{module}")
    exec("import warnings\\ndef warn(): warnings.warn('planted', {category}, stacklevel={level})", module.__dict__)
    module.warn()
"""


WARNINGS = [
    ("quicksilver.kernels.planted", "UserWarning", 1, True),
    ("quicksilver.kernels.planted", "RuntimeWarning", 1, True),
    ("library.planted", "UserWarning", 1, False),
    ("library.planted", "UserWarning", 2, True),  # shown at a line of ours, which caused it
    ("library.planted", "DeprecationWarning", 2, False),  # which an older library did not call deprecated
    ("library.planted", "FutureWarning", 2, False),
]


@pytest.fixture(scope="module")
def said_of_warnings(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest says of a test of each warning, in one run."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "tests").mkdir()
    for module, category, level, _ in WARNINGS:
        text = PLANTED.format(module=module, category=category, level=level)
        (folder / "tests" / planted_file(module, category, level)).write_text(text)
    command = [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml",
               "--rootdir", folder, folder / "tests"]
    return subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True).stdout


def planted_file(module: str, category: str, level: int) -> str:
    return f"test_{module.partition('.')[0]}_{category}_{level}.py"


@pytest.mark.parametrize(("module", "category", "level", "fails"), WARNINGS, ids=str)
def test_a_warning_fails_a_test_if_it_is_ours_and_names_no_later_version(
        module: str, category: str, level: int, fails: bool, said_of_warnings: str) -> None:
    test = f"tests/{planted_file(module, category, level)}::test_planted"
    ran, _, summary = said_of_warnings.partition(" warnings summary ")
    outcome = "FAILED" if fails else "PASSED"
    assert re.search(rf"^{test} {outcome}", ran, re.MULTILINE), said_of_warnings
    shown = summary.partition(" short test summary ")[0]
    assert bool(re.search(rf"^{test}\n.*{category}: planted", shown, re.MULTILINE)) != fails, said_of_warnings
    assert (f"FAILED {test} - {category}: planted" in summary) == fails, said_of_warnings


def test_the_lowest_environment_pins_every_lower_bound_but_torchs() -> None:
    lowest = runpy.run_path(str(ROOT / ".ci" / "lowest.py"))["lowest"]
    pins = dict(pin.split("==") for pin in lowest(REQUIRED))
    assert pins.keys() == {re.split("[><=]", required)[0] for required in REQUIRED} - {"torch", "triton"}
    assert all(f"{name}>={version}" in [required.split(",")[0] for required in REQUIRED]
               for name, version in pins.items())
    with pytest.raises(ValueError, match="requirement 'numpy<3': must begin with its lower bound"):
        lowest(["numpy<3"])


def test_torchs_ends_are_the_bounds_of_its_range() -> None:
    """And CI's torch is the highest of them."""
    settings = dict(re.findall(r"^(\w+) := (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    ends = [[tuple(map(int, version.split(".")[:2])) for version in pair.split(":")]
            for pair in settings["TORCH_ENDS"].split()]
    for place, name in enumerate(("torch", "triton")):
        (bounds,) = [re.fullmatch(rf"{name}>=(\d+)\.(\d+),<(\d+)\.(\d+)", required) for required in REQUIRED
                     if required.startswith(name)]
        assert bounds is not None
        low, below = tuple(map(int, bounds.groups()[:2])), tuple(map(int, bounds.groups()[2:]))
        assert [end[place] for end in ends] == [low, (below[0], below[1] - 1)]
    assert settings["TORCH_ENDS"].split()[-1].startswith(f"{settings['TORCH']}:")
