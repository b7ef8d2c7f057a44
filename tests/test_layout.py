"""The house rules that a machine can hold: who imports whom, what is packaged, file lengths, mirrored tests."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("kernels", "models", "decoders", "experiments")
SOURCES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]
MUST_NOT_IMPORT_TORCH = ("analysis.py", "cache_error_figure.py", "cache_error_report.py", "cache_error_rows.py",
                         "conditions.py", "decoder_table.py", "decoders_figure.py", "decoders_report.py",
                         "figures.py", "findings.py", "intervals.py", "joint_error_figure.py", "joint_error_report.py",
                         "joint_error_rows.py", "record_groups.py", "report.py", "report_section.py",
                         "speed_ups.py", "training_rows.py")


def imported_modules(path: Path) -> list[str]:
    """Absolute names of the modules a source file imports; relative ones resolved below `quicksilver`."""
    package = ["quicksilver", *path.relative_to(ROOT).parts[:-1]]
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names.append(".".join([*base, *([node.module] if node.module else [])]))
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_layer_imports_only_layers_below_it(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    above = {f"quicksilver.{name}" for name in (*LAYERS[layer + 1 :], "conf")}
    assert not [name for name in imported_modules(path) if any(name.startswith(other) for other in above)]


@pytest.mark.parametrize("name", MUST_NOT_IMPORT_TORCH)
def test_figures_and_report_read_records_only(name: str) -> None:
    assert "torch" not in imported_modules(ROOT / "experiments" / name)


def test_only_the_entry_point_knows_hydra() -> None:
    users = [path.name for path in SOURCES
             if any(name.split(".")[0] in ("hydra", "omegaconf") for name in imported_modules(path))]
    assert users == ["__main__.py"]


def test_there_is_one_decoding_loop() -> None:
    steppers = [path.name for path in SOURCES if ".policy.select(" in path.read_text()]
    assert steppers == ["decoder.py"]


def test_every_source_folder_is_packaged() -> None:
    declared = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT) for path in SOURCES} | {Path("conf")}
    assert declared == {"quicksilver." + ".".join(folder.parts) for folder in folders}


def test_kernels_is_no_top_level_package() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_at_most_300_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


def test_every_test_file_mirrors_a_source_file() -> None:
    sources = {path.relative_to(ROOT).with_suffix("") for path in SOURCES}
    strays = [path for layer in LAYERS for path in (ROOT / "tests" / layer).rglob("test_*.py")
              if path.relative_to(ROOT / "tests").with_name(path.stem.removeprefix("test_")) not in sources
              and path.stem.removeprefix("test_") not in ("contracts", "distributions", "main", "published", "recipes",
                                                         "unchanged")]
    assert not strays
