import os
from pathlib import Path

import pytest
from quicksilver.experiments.harness.latest_link import link_latest


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "report.html").write_text(path.name)
    return path


def test_latest_leads_to_the_newest_and_moves_with_the_output(tmp_path: Path) -> None:
    for name in ("a-1", "b-2"):
        link_latest(folder(tmp_path / "runs" / name))
        assert (tmp_path / "runs" / "latest" / "report.html").read_text() == name
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "latest" / "report.html").read_text() == "b-2"
    assert sorted(os.listdir(tmp_path / "elsewhere")) == ["a-1", "b-2", "latest"]


def test_a_folder_of_that_name_is_left_alone(tmp_path: Path) -> None:
    kept = folder(tmp_path / "latest")
    link_latest(folder(tmp_path / "a-1"))
    assert not kept.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["a-1", "latest"]


def test_a_filesystem_without_links_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refused)
    link_latest(folder(tmp_path / "a-1"))
    assert os.listdir(tmp_path) == ["a-1"]
