"""A study is a folder, a YAML and a test folder. Added to a copy of the project, it runs, is on the page, is packaged
and passes the house rules, and no other file changes."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("kernels", "models", "decoders", "experiments", "conf")
STUDY = {
    "experiments/vocabulary/experiment.py": '''"""The vocabulary experiment: how many tokens each task knows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..harness.records import Json
from ..report.page import report_name, write_report
from ..study.checks import check_tasks, finish, measure_missing
from ..study.runner import Runner
from ..study.setup import TaskSetup
from ..training.recipe import TrainingPoint


@dataclass(frozen=True)
class VocabularyPoint:
    name: str
    model: TrainingPoint


@dataclass(frozen=True)
class Vocabulary:
    tasks: Mapping[str, TaskSetup]

    def check(self) -> None:
        """ValueError where there is no task."""
        check_tasks(self.tasks, [0])

    def run(self, folder: Path) -> int:
        runner = Runner(folder)
        points = [VocabularyPoint(name, TrainingPoint(name, setup.task, setup.diffusion, 0))
                  for name, setup in self.tasks.items()]
        measured = measure_missing(runner, points, lambda point: point.name, _measure)
        name = report_name("vocabulary-", self.tasks, [0], self)
        return finish(write_report(folder / name, [], measured), measured)


def _measure(point: VocabularyPoint, runner: Runner) -> Json:
    return {"num_tokens": point.model.task.vocab_size}
''',
    "experiments/vocabulary/section.py": '''"""What the report says of vocabularies."""

from collections.abc import Sequence

from ..harness.records import Json
from ..report.section import Section

KINDS = {"VocabularyPoint": "vocabulary"}


def section(records: Sequence[Json], sources: Sequence[str]) -> Section:
    """The section of these records."""
    sizes = {record["point"]["name"]: record["result"]["num_tokens"] for record in records}
    found = [f"{name} knows {size} tokens." for name, size in sizes.items()]
    return Section("Vocabularies", "vocabulary/section.html.j2", {"sizes": sizes}, {}, found, str(sizes))
''',
    "experiments/vocabulary/section.html.j2": "<p>{{ values.sizes }}</p>\n",
    "conf/experiment/vocabulary.yaml": '''_target_: quicksilver.experiments.vocabulary.experiment.Vocabulary
tasks: ${task}
''',
    "tests/experiments/vocabulary/test_experiment.py": '''"""A task without a vocabulary is none."""

import pytest

pytestmark = pytest.mark.slow
from quicksilver.experiments.vocabulary.experiment import Vocabulary


def test_no_task_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Vocabulary({}).check()
''',
    "tests/experiments/vocabulary/test_section.py": '''"""A section names each task's number of tokens."""

from quicksilver.experiments.vocabulary.section import section


def test_each_task_is_named() -> None:
    record = {"point": {"name": "sums"}, "result": {"num_tokens": 14}}
    assert section([record], []).findings == ["sums knows 14 tokens."]
''',
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the study, importable from the folder `site` in it."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(
        ".git", ".venv*", "runs", "build", "*.egg-info", "__pycache__", "results", ".types", ".*cache"))
    before = hashes(folder)
    for name, text in STUDY.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    assert {name for name, found in hashes(folder).items() if before.get(name) != found} == set(STUDY)
    (folder / "site" / "quicksilver").mkdir(parents=True)
    for layer in LAYERS:
        (folder / "site" / "quicksilver" / layer).symlink_to(folder / layer)
    return folder


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*") if path.is_file()}


def run(copy: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(copy / "site"), "PYTHONDONTWRITEBYTECODE": "1"}
    finished = subprocess.run([sys.executable, *arguments], cwd=copy, env=environment, text=True, capture_output=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout + finished.stderr


def test_it_runs_and_has_its_section_on_the_page(copy: Path) -> None:
    said = run(copy, "-m", "quicksilver.experiments", "experiment=vocabulary", "task=[sudoku4,addition]")
    assert "- sudoku4 knows" in said
    (page,) = (copy / "runs").glob("vocabulary-*/report.html")
    assert "Vocabularies</h2>" in page.read_text()
    code = "import quicksilver.experiments.vocabulary.section as module; print(module.__file__)"
    assert Path(run(copy, "-c", code).strip()).resolve() == (copy / "experiments/vocabulary/section.py").resolve()


def test_it_is_packaged(copy: Path) -> None:
    code = ("import setuptools; found = {}; setuptools.setup = lambda **given: found.update(given); import setup; "
            "print(*found['packages'])")
    assert "quicksilver.experiments.vocabulary" in run(copy, "-c", code).split()


def test_it_passes_the_house_rules_and_its_own_tests(copy: Path) -> None:
    assert "failed" not in run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_layout.py",
                               "tests/experiments/vocabulary")
