import mmap
import struct
from pathlib import Path

import pytest
from quicksilver.models.checkpoints.gguf_cursor import Cursor


@pytest.fixture
def cursor(tmp_path: Path) -> Cursor:
    """At the beginning of a number 7, a text "ä" and a count of 3, of 24 bytes in all."""
    path = tmp_path / "file"
    path.write_bytes(struct.pack("<IQ", 7, 2) + "ä".encode() + struct.pack("<Q", 3) + b"12")
    with path.open("rb") as file:
        return Cursor(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), path)


def test_it_reads_on_and_knows_what_is_left(cursor: Cursor) -> None:
    assert (cursor.number("<I"), cursor.text("name", 2), cursor.left) == (7, "ä", 10)
    with pytest.raises(ValueError, match="file: header: 3 things: more than the 2 bytes to the end of the file hold"):
        cursor.count("things", 1)


def test_nothing_is_read_past_the_end_and_the_error_says_of_what(cursor: Cursor) -> None:
    cursor.about = "tensor 'a'"
    assert cursor.skip(24) == 0
    with pytest.raises(ValueError, match="file: tensor 'a': 8 bytes from byte 24 on reach past the end of the file"):
        cursor.number("<Q")


@pytest.mark.parametrize("text", ["ä" * 20_000, "a" + "\u20ac" * 11_000, ""])
def test_a_long_text_is_passed_over_in_pieces(text: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (text.encode(), text.encode() + b"\xe2\x82"):
        path.write_bytes(struct.pack("<Q", len(content)) + content + b"end")
        with path.open("rb") as file:
            cursor = Cursor(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), path)
        if content == text.encode():
            cursor.pass_text("a text", 2**20)
            assert cursor.left == 3
            continue
        with pytest.raises(ValueError, match="a text from byte 8 on: must be UTF-8"):
            cursor.pass_text("a text", 2**20)


@pytest.mark.parametrize(("start", "at_most", "message"), [
    (4, 1, "name of 2 bytes: must be at most 1"), (0, 99, "name of 8589934599 bytes: must be at most 99"),
    (5, 2**64, "14051230837395947520 bytes from byte 13 on reach past the end")])
def test_a_text_that_is_too_long_is_refused(cursor: Cursor, start: int, at_most: int, message: str) -> None:
    cursor.position = start
    with pytest.raises(ValueError, match=message):
        cursor.text("name", at_most)
