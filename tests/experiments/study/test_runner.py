"""The folder of an experiment: made, or refused before anything is computed."""

import os
import subprocess
from pathlib import Path

import pytest
from quicksilver.experiments.study.runner import check_folder


def test_a_missing_output_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    check_folder("output", tmp_path / "deep" / "folder")
    assert not list((tmp_path / "deep" / "folder").iterdir())


def test_an_output_folder_that_cannot_be_written_is_refused_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^output='.*/file/runs': must be a folder .* \(Not a directory\)$"):
        check_folder("output", tmp_path / "file" / "runs")
    with pytest.raises(ValueError, match=r"^output='.*/file': must be a folder .* \(File exists\)$"):
        check_folder("output", tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(ValueError, match="Permission denied"):
        check_folder("output", tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk needs root")
def test_an_output_folder_on_a_read_only_disk_is_refused(tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("this machine does not allow mounts")
    try:
        with pytest.raises(ValueError, match="Read-only file system"):
            check_folder("output", tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
