"""A peer's code is named by commit and files, and never by the repository that happens to lie around it."""

import subprocess
from importlib.metadata import version
from pathlib import Path

from quicksilver.experiments.peers.origin import of_checkout, of_package


def git(folder: Path, arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments.split()], check=True)


def test_a_package_is_named_with_its_version() -> None:
    assert of_package("torch") == {"package": "torch", "version": version("torch")}


def test_a_checkout_is_named_by_its_commit_and_a_change_of_what_is_run_is_seen(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text("1")
    git(tmp_path, "init -q")
    git(tmp_path, "add run.py")
    git(tmp_path, "-c user.name=n -c user.email=e commit -qm m")
    (tmp_path / "other.py").write_text("1")
    found = of_checkout(tmp_path, "home", ["run.py", "missing.py"])
    assert (found["repository"], len(found["commit"]), found["dirty"]) == ("home", 40, False)
    assert list(found["files"]) == ["run.py"]
    (tmp_path / "run.py").write_text("2")
    changed = of_checkout(tmp_path, "home", ["run.py"])
    assert (changed["commit"], changed["dirty"]) == (found["commit"], True)
    assert changed["files"] != found["files"]


def test_a_plain_folder_has_no_commit_though_a_repository_is_around_it(tmp_path: Path) -> None:
    git(tmp_path, "init -q")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "run.py").write_text("1")
    found = of_checkout(tmp_path / "plain", "home", ["run.py"])
    assert (found["commit"], found["dirty"], list(found["files"])) == ("none", None, ["run.py"])
