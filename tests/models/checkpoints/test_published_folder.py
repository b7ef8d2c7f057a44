"""Of a published folder its own files are read, and those of Hugging Face's cache that it links to."""

from pathlib import Path

import pytest
from quicksilver.models.checkpoints.published_folder import file_of, has_file


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A folder of the cache's layout, whose config.json is a link."""
    blobs, folder = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    folder.mkdir(parents=True)
    (blobs / "abc").write_text("{}")
    (folder / "config.json").symlink_to("../../blobs/abc")
    return folder


def test_a_file_and_a_link_within_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("file")
    assert file_of(tmp_path, "file") == tmp_path / "file"
    assert file_of(tmp_path, "link") == tmp_path / "link"


def test_the_layout_of_the_cache(cache: Path, tmp_path: Path) -> None:
    assert file_of(cache, "config.json").read_text() == "{}"
    (tmp_path / "link").symlink_to(cache)
    assert file_of(tmp_path / "link", "config.json").read_text() == "{}"


def test_no_other_link_out_of_the_folder(cache: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "models--a--c" / "blobs"
    elsewhere.mkdir(parents=True)
    for outside in (elsewhere / "abc", tmp_path / "abc", cache.parent / "abc", cache.parents[1] / "abc"):
        outside.write_text("{}")
        (cache / "link").symlink_to(outside)
        with pytest.raises(ValueError, match="outside its folder"):
            file_of(cache, "link")
        (cache / "link").unlink()
    plain = tmp_path / "models--a--b" / "other" / "0123"  # beside the blobs, and no snapshot
    plain.mkdir(parents=True)
    (plain / "config.json").symlink_to("../../blobs/abc")
    with pytest.raises(ValueError, match="outside its folder"):
        file_of(plain, "config.json")


@pytest.mark.parametrize("name", ["../file", "/etc/passwd", "a/b", "", "a\n", "a\0"])
def test_a_name_that_is_none_of_a_file_of_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be the name of a file of this folder"):
        file_of(tmp_path, name)


def test_what_is_missing_or_no_plain_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name, message in (("folder", "must be a plain file"), ("loop", "no such file"), ("none", "no such file"),
                          ("x" * 1000, "no such file")):
        with pytest.raises(ValueError, match=message):
            file_of(tmp_path, name)
    assert has_file(tmp_path, "loop")
    assert not has_file(tmp_path, "none")
