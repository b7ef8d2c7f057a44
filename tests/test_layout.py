"""The house rules that a machine can hold: who imports whom, what is packaged, file lengths, mirrored tests."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("kernels", "models", "decoders", "experiments")
SOURCES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]
ROOMS = ("harness", "tasks", "training", "study", "report")
"""The lower rooms of experiments/, each resting on those before it. All others are studies, which rest on these and not
on one another; kernel_bench and step_bench on the harness alone."""
PAGES = ("balance_figure", "conditions", "figure", "findings", "groups", "intervals", "learning_curves", "page", "rows",
         "section", "speed_ups", "style", "training_rows")
"""Modules that read records and make pages of them."""


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


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_a_layer_imports_only_layers_below_it() -> None:
    upward = [f"{named(path)} imports {name}" for path in SOURCES for name in imported_modules(path)
              if name.startswith(tuple(f"quicksilver.{layer}" for layer in layers_above(path)))]
    assert not upward


def layers_above(path: Path) -> tuple[str, ...]:
    return (*LAYERS[LAYERS.index(path.relative_to(ROOT).parts[0]) + 1 :], "conf")


def room(path: Path) -> str:
    """The room of experiments/ that a file is in: its folder, or the file itself where it lies on top."""
    return path.relative_to(ROOT / "experiments").parts[0].removesuffix(".py")


def rooms_imported(path: Path) -> set[str]:
    names = [name.split(".") for name in imported_modules(path)]
    return {name[2] for name in names if name[:2] == ["quicksilver", "experiments"] and len(name) > 2} - {room(path)}


def allowed(name: str) -> tuple[str, ...]:
    if name == "__main__":
        return ("harness", "config")
    if name in ("kernel_bench", "step_bench"):
        return ("harness",)
    return ROOMS[: ROOMS.index(name)] if name in ROOMS else () if name == "config" else ROOMS


EXPERIMENTS = [path for path in SOURCES if path.is_relative_to(ROOT / "experiments")]


def test_a_room_of_experiments_rests_on_those_below_it_and_no_study_on_another() -> None:
    assert not [f"{named(path)} imports {other}" for path in EXPERIMENTS
                for other in rooms_imported(path) - set(allowed(room(path)))]


def test_no_module_of_a_room_carries_another_ones_name_as_a_prefix() -> None:
    folders = {path.parent for path in EXPERIMENTS} - {ROOT / "experiments" / "peers"}  # named after the peers' own
    stems = {folder: sorted(path.stem for path in folder.glob("*.py")) for folder in folders}
    assert not [(folder, name, other) for folder, names in stems.items() for name in names for other in names
                if name != other and name.startswith(other)]


def test_pages_are_made_from_records_without_torch() -> None:
    modules = [".".join(("quicksilver", *path.relative_to(ROOT).with_suffix("").parts)) for path in EXPERIMENTS
               if path.stem in PAGES]
    assert len(modules) > 20
    code = (f"import importlib, sys; [importlib.import_module(name) for name in {modules}]; "
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_only_the_entry_point_knows_hydra() -> None:
    users = [path.name for path in SOURCES
             if any(name.split(".")[0] in ("hydra", "omegaconf") for name in imported_modules(path))]
    assert users == ["__main__.py"]


def test_there_is_one_decoding_loop() -> None:
    steppers = [path.name for path in SOURCES if ".policy.select(" in path.read_text()]
    assert steppers == ["decoder.py"]


def test_kernels_is_no_top_level_package() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_a_file_is_at_most_300_lines() -> None:
    lengths = {named(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert not {name: length for name, length in lengths.items() if length > 300}


TESTED_ELSEWHERE = {
    "kernels/atomic_file.py": "models/test_checkpoint.py",
    "kernels/autocast.py": "models/test_layers.py",
    "kernels/case.py": "experiments/harness/test_roofline.py",
    "kernels/commit_rules.py": "kernels/test_choose.py",
    "kernels/heads_in_halves.py": "kernels/test_rotate_and_store.py",
    "kernels/statistics_request.py": "kernels/test_token_statistics.py",
    "kernels/tensor_checks.py": "kernels/test_contracts.py",
    "kernels/vocabulary_tiles.py": "kernels/test_token_statistics.py",
    "models/checkpoints/base.py": "models/test_loading.py",
    "models/checkpoints/gguf_architectures.py": "models/checkpoints/test_gguf_file.py",
    "models/checkpoints/gguf_keys.py": "models/checkpoints/test_gguf_config.py",
    "models/checkpoints/gguf_names.py": "models/checkpoints/test_gguf_file.py",
    "models/dense_beside_experts.py": "models/families/test_diffusion_gemma.py",
    "models/families/base.py": "models/families/test_llama.py",
    "models/families/rotary.py": "models/families/test_llama.py",
    "models/families/tensor_names.py": "models/families/test_published.py",
    "models/hf_config.py": "models/test_hugging_face.py",
    "models/hf_positions.py": "models/test_hf_probe.py",
    "models/kv_store.py": "kernels/test_rotate_and_store.py",
    "models/routers.py": "models/test_balancing.py",
    "models/text/template_worker.py": "models/text/test_template_process.py",
    "models/self_conditioning.py": "models/families/test_diffusion_gemma.py",
    "decoders/canvas.py": "decoders/test_decoder.py",
    "decoders/decode_run.py": "decoders/test_decoder.py",
    "decoders/caches/base.py": "decoders/caches/test_exact.py",
    "decoders/policies/base.py": "decoders/test_contracts.py",
    "decoders/schedules/base.py": "decoders/schedules/test_fixed.py",
    "experiments/__main__.py": "experiments/test_main.py",
    "experiments/peers/__main__.py": "experiments/peers/test_main.py",
}
"""Sources without a test file of their name, each with the one that holds it."""


def test_every_source_file_has_its_test() -> None:
    tests = ROOT / "tests"
    sources = {named(path) for path in SOURCES if path.name != "__init__.py"}
    without = {name for name in sources if not (tests / name).with_name(f"test_{Path(name).name}").exists()}
    assert {"no test file of its name": sorted(without - TESTED_ELSEWHERE.keys()),
            "needs no exception": sorted(TESTED_ELSEWHERE.keys() - without)} == {
        "no test file of its name": [], "needs no exception": []}
    assert not [other for other in TESTED_ELSEWHERE.values() if not (tests / other).exists()]


def test_every_test_file_mirrors_a_source_file() -> None:
    sources = {path.relative_to(ROOT).with_suffix("") for path in SOURCES}
    strays = [path for layer in LAYERS for path in (ROOT / "tests" / layer).rglob("test_*.py")
              if path.relative_to(ROOT / "tests").with_name(path.stem.removeprefix("test_")) not in sources
              and path.stem.removeprefix("test_") not in ("contracts", "distributions", "main", "published", "readme",
                                                         "recipes", "unchanged")]
    assert not strays
