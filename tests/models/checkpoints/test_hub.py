"""Names of the hub, by its library's own cache and without a network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from quicksilver.models.checkpoints import hub
from quicksilver.models.checkpoints.hub import located

from tests.models.families.transformers_model import Variant

COMMIT = "0123456789abcdef0123456789abcdef01234567"
THERE = [("owner/name", None), ("owner/name", "main"), ("owner/name", COMMIT)]
NOT_THERE = [("owner/other", None), ("owner/name", "other"), ("owner/name/x.gguf", None)]
LOAD = """
import json, sys
from quicksilver.models import load

def outcome(name, revision):
    try:
        loaded = load(name, revision=revision, device="cpu", say=lambda line: None)
    except ValueError as error:
        return f"ValueError: {error}"
    return f"{loaded.path} {loaded.model.transformer.num_parameters()}"

print(json.dumps([outcome(*asked) for asked in json.loads(sys.argv[1])]))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the library lays out a repository that it has fetched."""
    folder = tmp_path_factory.mktemp("hub")
    Variant("Llama").saved(folder / "published")
    repository = folder / "cache" / "models--owner--name"
    snapshot = repository / "snapshots" / COMMIT
    for part in (repository / "blobs", repository / "refs", snapshot):
        part.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for number, path in enumerate(sorted((folder / "published").iterdir())):
        path.rename(repository / "blobs" / f"{number:064x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:064x}")
    return folder / "cache"


@pytest.fixture(scope="module")
def outcomes(cache: Path) -> list[str]:
    """What loading THERE and then NOT_THERE gives, in one process that knows this cache and no network."""
    pytest.importorskip("huggingface_hub")
    environment = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    found = subprocess.run([sys.executable, "-c", LOAD, json.dumps(THERE + NOT_THERE)], env=environment,
                           capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def test_what_is_in_the_cache_is_loaded_without_a_network(outcomes: list[str], cache: Path) -> None:
    for outcome in outcomes[: len(THERE)]:
        assert str(cache / "models--owner--name" / "snapshots" / COMMIT) in outcome


def test_what_is_not_there_is_one_line(outcomes: list[str]) -> None:
    for (name, _), outcome in zip(NOT_THERE, outcomes[len(THERE) :], strict=True):
        assert outcome.startswith(
            f"ValueError: {name}: no such folder, and not to be had from Hugging Face's hub (")
        assert len(outcome.splitlines()) == 1


class Library:
    """What is asked of the hub's library."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []

    def snapshot_download(self, name: str, **options: object) -> str:
        self.asked.append((name, options))
        return str(self.folder)

    def hf_hub_download(self, name: str, file: str, **options: object) -> str:
        self.asked.append((name, file, options))
        return str(self.folder / file)


def test_no_code_no_pickles_and_no_second_copy_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filtered = pytest.importorskip("huggingface_hub.utils").filter_repo_objects
    library = Library(tmp_path)
    monkeypatch.setattr(hub, "_library", lambda name: library)
    assert located("a/b", "v1") == tmp_path
    (name, options), = library.asked
    assert (name, options["revision"]) == ("a/b", "v1")
    wanted = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json",
              "tokenizer.model", "merges.txt", "chat_template.jinja"]
    left = ["modeling_x.py", "pytorch_model.bin", "consolidated.safetensors", "onnx/config.json", "model.Q4_0.gguf",
            "original/x.pth", "README.md", "training_args.bin", "x.pt", "x.pkl"]
    assert list(filtered([*wanted, *left], allow_patterns=options["allow_patterns"],
                         ignore_patterns=options["ignore_patterns"])) == wanted
    assert located("a/b/model.Q4_0.gguf") == tmp_path / "model.Q4_0.gguf"
    assert library.asked[-1] == ("a/b", "model.Q4_0.gguf", {"revision": None})


def test_a_path_counts_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "_library", lambda name: pytest.fail("asked the hub"))
    assert located("owner/name") == Path("owner/name")
    with pytest.raises(ValueError, match="revision='main': owner/name is a path here"):
        located("owner/name", "main")


@pytest.mark.parametrize("name", ["name", "../a/b", "a/b/c", "a/..", "/a/b", "a b/c", "a/b\n", "", "a//b", "a/b/c.bin"])
def test_what_is_no_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "_library", lambda name: pytest.fail("asked the hub"))
    with pytest.raises(ValueError, match="no such folder, and no name of the form owner/name"):
        located(name)
    with pytest.raises(ValueError, match="no such folder"):
        located(tmp_path / "a" / "b")


def test_without_the_library_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="owner/name: .* huggingface_hub must be installed"):
        located("owner/name")
