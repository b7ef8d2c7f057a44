"""What the library would read of a lying header is refused by the tensor's name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from quicksilver.models.checkpoints.base import TensorInfo
from quicksilver.models.checkpoints.safetensors_header import tensors_in
from safetensors.torch import load_file, save_file

A = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def written(path: Path, header: dict[str, Any] | str, data_bytes: int = 16) -> Path:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data_bytes))
    return path


def test_what_the_library_wrote_is_read(tmp_path: Path) -> None:
    save_file({"b": torch.ones(3, dtype=torch.bfloat16), "a": torch.ones(2, 0), "c": torch.tensor(1)}, tmp_path / "x",
              {"format": "pt"})
    assert tensors_in(tmp_path / "x") == {"a": TensorInfo((2, 0), "F32"), "b": TensorInfo((3,), "BF16"),
                                          "c": TensorInfo((), "I64")}
    written(tmp_path / "y", {})
    with pytest.raises(ValueError, match="16 bytes after the last tensor"):
        tensors_in(tmp_path / "y")


@pytest.mark.parametrize("text", [
    '{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "a": {"dtype": "I32", "shape": [4], '
    '"data_offsets": [0, 16]}}', '{"": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}',
    '{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], "more": 1}}'])
def test_what_the_library_lets_through(text: str, tmp_path: Path) -> None:
    path = written(tmp_path / "x", text)
    load_file(path)
    with pytest.raises(ValueError, match="'a' comes twice|tensor '': must have|tensor a: .* must be a table"):
        tensors_in(path)


@pytest.mark.parametrize(("entries", "message"), [
    ({"a": A | {"dtype": "F8"}}, "tensor a: dtype='F8': must be one of"), ({"a": A | {"dtype": [1]}}, r"dtype=\[1\]"),
    ({"a": A | {"shape": [2, 3]}}, "tensor a: data_offsets=.* must be 24 bytes"),
    ({"a": A | {"shape": [2**32, 2**32]}}, "tensor a: data_offsets=.* must be 73,786,976,294,838,206,464 bytes"),
    ({"a": A | {"shape": [-2, -2]}}, r"tensor a: shape=\[-2, -2\]"),
    ({"a": A | {"shape": [2.0, 2]}}, "tensor a: shape"),
    ({"a": A | {"shape": [True, 4]}}, "tensor a: shape"), ({"a": A | {"shape": [1] * 65}}, "tensor a: shape"),
    ({"a": A | {"data_offsets": [16, 0]}}, "tensor a: data_offsets"),
    ({"a": A | {"data_offsets": [0]}}, "tensor a: data"),
    ({"a": A | {"data_offsets": [4, 20]}}, "tensor a: begins at byte 4 of the data: must be 0"),
    ({"a": A, "b": A}, "tensor b: begins at byte 0 of the data: must be 16"),
    ({"a": A, "b": A | {"data_offsets": [16, 32]}}, "tensor b: ends at byte 32 of the data: must be at most 16"),
    ({"a": A | {"shape": [2], "data_offsets": [0, 8]}}, "8 bytes after the last tensor"), ({"a": [1]}, "tensor a: "),
    ({"a": A, "__metadata__": {"b": 1}}, "__metadata__="), ({"a\n": A}, r"tensor 'a\\n': must have a name")])
def test_an_entry_that_is_refused(entries: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        tensors_in(written(tmp_path / "x", entries))
    assert str(caught.value).startswith(f"{tmp_path / 'x'}: ")


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 8 + b"{}", b"\3" + b"\0" * 7 + b"{}"])
def test_a_length_that_the_file_does_not_have(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match="must begin with the 8|header of .* bytes: must be at most"):
        tensors_in(tmp_path / "x")
