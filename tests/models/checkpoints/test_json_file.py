"""JSON that libraries would read differently, or not at all, is refused by name."""

from pathlib import Path

import pytest
from quicksilver.models.checkpoints import json_file
from quicksilver.models.checkpoints.json_file import parse_table, read_json


@pytest.mark.parametrize(("text", "message"), [
    (b'{"a": 1, "a": 1}', "'a' comes twice"), (b'{"b": {"a": 1, "a": 2}}', "'a' comes twice"),
    (b'{"a": NaN}', "'a'=nan: must be finite"), (b'{"a": -Infinity}', "'a'=-inf: must be finite"),
    (b'{"a": 1e999}', "'a'=inf: must be finite"), (b"[1]", "must hold a table, not list"), (b"", "not JSON"),
    (b'{"a": "\xff"}', "not JSON"), (b"[" * 100_000, "not JSON"), (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
    (b"\xef\xbb\xbf{}", "not JSON")])
def test_text_that_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^origin: {message}"):
        parse_table(text, "origin")


def test_a_table_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text('{"a": [1, 2.5, null], "b": {"a": "x"}}')
    assert read_json(tmp_path / "file") == {"a": [1, 2.5, None], "b": {"a": "x"}}


def test_a_file_that_is_missing_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="file: no such file"):
        read_json(tmp_path / "file")
    monkeypatch.setattr(json_file, "MOST_BYTES", 4)
    (tmp_path / "file").write_text("{    }")
    with pytest.raises(ValueError, match="file: 6 bytes: at most 4"):
        read_json(tmp_path / "file")


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_json(tmp_path)
