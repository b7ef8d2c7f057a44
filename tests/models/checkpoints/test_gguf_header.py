"""Files that lie about themselves are refused in a line that names the value or tensor, before anything is taken for
what they say. Other readers crashed, hung or read wrong bytes on many of these."""

import mmap
import struct
from pathlib import Path

import pytest
from quicksilver.models.checkpoints.gguf_header import Header, blocks_of, read_header

UINT32, FLOAT32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def value(key: bytes, kind: int, content: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + content


def tensor(name: bytes, dims: tuple[int, ...], offset: int, kind: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


ALIGNED = value(b"general.alignment", UINT32, struct.pack("<I", 64))
A, B = tensor(b"a", (8,), 0), tensor(b"b", (32, 2), 32, 8)
DATA = bytes(range(32)) + bytes(68)


def gguf(tensors: tuple[bytes, ...] = (A, B), values: tuple[bytes, ...] = (), *, data: bytes = DATA,
         counts: tuple[int, int] | None = None, head: bytes = b"GGUF\3\0\0\0", alignment: int = 32) -> bytes:
    """A file of two tensors, of 8 float32 and of two rows of 32 in Q8_0, or with other parts."""
    header = head + struct.pack("<2Q", *(counts or (len(tensors), len(values)))) + b"".join((*values, *tensors))
    return header + bytes(-len(header) % alignment) + data


def read(folder: Path, content: bytes) -> tuple[Header, mmap.mmap]:
    path = folder / "model.gguf"
    path.write_bytes(content)
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return read_header(data, path), data


def test_it_finds_values_and_tensors(tmp_path: Path) -> None:
    names = value(b"names", ARRAY, struct.pack("<IQ", STRING, 2) + text(b"one") + text("zwölf".encode()))
    numbers = value(b"numbers", ARRAY, struct.pack("<IQ2h", 3, 2, -1, 7))
    scalars = value(b"half", FLOAT32, struct.pack("<f", 0.5)), value(b"yes", BOOL, b"\1")
    header, data = read(tmp_path, gguf(values=(names, numbers, *scalars)))
    assert dict(header.values) == {"names": ["one", "zwölf"], "numbers": [-1, 7], "half": 0.5, "yes": True}
    a, b = header.tensors.values()
    assert (a.shape, a.type.name, b.shape, b.type.name) == ((8,), "F32", (2, 32), "Q8_0")
    assert bytes(blocks_of(data, a)) == bytes(range(32))
    assert blocks_of(data, b).shape == (2, 34)


@pytest.mark.parametrize("data", [DATA, DATA + bytes(28)], ids=["unpadded", "padded"])
def test_the_last_tensor_may_be_padded_and_version_2_reads_like_3(data: bytes, tmp_path: Path) -> None:
    header, _ = read(tmp_path, gguf(data=data, head=b"GGUF\2\0\0\0"))
    assert [*header.tensors] == ["a", "b"]


def test_tensors_lie_as_the_alignment_says(tmp_path: Path) -> None:
    far = tensor(b"b", (32, 2), 64, 8)
    header, data = read(tmp_path, gguf((A, far), (ALIGNED,), data=bytes(64) + bytes([9]) * 68, alignment=64))
    assert bytes(blocks_of(data, header.tensors["b"])) == bytes([9]) * 68


def aligned(number: int, kind: int = UINT32, layout: str = "<I") -> bytes:
    return gguf(values=(value(b"general.alignment", kind, struct.pack(layout, number)),))


def array(kind: int, number: int, content: bytes = b"") -> bytes:
    return gguf(values=(value(b"k", ARRAY, struct.pack("<IQ", kind, number) + content),))


LIES: dict[str, tuple[bytes, str]] = {
    "another format": (b"PK\3\4" + bytes(99), r"begins with b'PK.*must be a GGUF file"),
    "big-endian": (gguf(head=b"GGUF\0\0\0\3"), "header: big-endian: must be little-endian, of version 2 or 3"),
    "version 1": (gguf(head=b"GGUF\1\0\0\0"), "header: version 1: must be"),
    "version 4": (gguf(head=b"GGUF\4\0\0\0"), "header: version 4: must be"),
    "cut in the counts": (gguf()[:12], "header: 8 bytes from byte 8 on reach past the end"),
    "2^63 tensors": (gguf(counts=(2**63, 0)), "header: 9223372036854775808 tensors: more than"),
    "2^32 values": (gguf(counts=(2, 2**32)), "header: 4294967296 values: more than"),
    "a value fewer": (gguf(values=(ALIGNED,), counts=(2, 0)), "tensor 'general.alignment'"),
    "a tensor fewer": (gguf(counts=(1, 0)), "tensor 'a': bytes .* beside it are padding: must be 0"),
    "a key twice": (gguf(values=(ALIGNED, ALIGNED)), "value 'general.alignment': is there twice"),
    "an empty key": (gguf(values=(value(b"", BOOL, b"\1"),)), "value 1 of 1: name '': must be of print"),
    "a key of 2^64 - 1": (gguf(values=(b"\xff" * 8 + b"key" + bytes(20),)), "value 1 of 1: name of 18446744073"),
    "a key of two lines": (gguf(values=(value(b"a\nb", BOOL, b"\1"),)), r"value 1 of 1: name 'a\\nb': must"),
    "a key not UTF-8": (gguf(values=(value(b"\xff", BOOL, b"\1"),)), "value 1 of 1: name from byte 32"),
    "text not UTF-8": (gguf(values=(value(b"k", STRING, text(b"\xc0")),)), "value 'k': a string .* must be UTF-8"),
    "text past the end": (gguf(values=(value(b"k", STRING, struct.pack("<Q", 2**20)),)), "value 'k': 1048576 b"),
    "text of 2 GiB": (gguf(values=(value(b"k", STRING, struct.pack("<Q", 2**31)),)), "value 'k': a string of 2147"),
    "bool 2": (gguf(values=(value(b"k", BOOL, b"\2"),)), "value 'k': bool 2: must be 0 or 1"),
    "bool 2 in an array": (array(BOOL, 2, b"\1\2"), "value 'k': bool 2: must be 0 or 1"),
    "value type 13": (gguf(values=(value(b"k", 13, bytes(8)),)), "value 'k': value type 13: must be at most 12"),
    "element type 99": (array(99, 1, bytes(8)), "value 'k': value type 99: must be at most 12"),
    "arrays in an array": (array(ARRAY, 2), "value 'k': an array of arrays"),
    "2^63 bytes": (array(0, 2**63), "value 'k': 9223372036854775808 elements: more than"),
    "2^61 floats": (array(FLOAT32, 2**61), "value 'k': 2305843009213693952 elements: more than"),
    "2^40 texts": (array(STRING, 2**40), "value 'k': 1099511627776 elements: more than"),
    "alignment 0": (aligned(0), "value 'general.alignment': 0: must be a power of 2"),
    "alignment 24": (aligned(24), "value 'general.alignment': 24: must be a power of 2"),
    "alignment 4": (aligned(4), "value 'general.alignment': 4: must be a power of 2 and at least 8"),
    "alignment 2^30": (aligned(2**30), "tensor 'a': its 32 bytes from byte 1073741824 on reach past"),
    "alignment -32": (aligned(-32, 5, "<i"), "value 'general.alignment': of type INT32: must be UINT32"),
    "alignment 2^63": (aligned(2**63, 10, "<Q"), "value 'general.alignment': of type UINT64: must be UINT32"),
    "a tensor twice": (gguf((A, tensor(b"a", (8,), 32))), "tensor 'a': is there twice"),
    "no name": (gguf((tensor(b"", (8,), 0),)), "tensor 1 of 1: name '': must be of print"),
    "a name of 64": (gguf((tensor(b"n" * 64, (8,), 0),)), "tensor 1 of 1: name of 64 bytes: must be at most 63"),
    "no dimensions": (gguf((tensor(b"a", (), 0), B)), "tensor 'a': 0 dimensions: must be 1 to 4"),
    "6 dimensions": (gguf((tensor(b"a", (2,) * 6, 0), B)), "tensor 'a': 6 dimensions: must be 1 to 4"),
    "2^32 - 1 dimensions": (gguf((text(b"a") + b"\xff" * 60,)), "tensor 'a': 4294967295 dimensions"),
    "a dimension of 0": (gguf((tensor(b"a", (8, 0), 0), B)), r"tensor 'a': shape \[0, 8\]: must hold"),
    "a product of 2^64": (gguf((tensor(b"a", (2**32, 2**32), 0), B)), "tensor 'a': shape .*: must hold"),
    "a product that wraps to 8": (gguf((tensor(b"a", (2**61 + 1, 8), 0), B)), "tensor 'a': shape .*: must hold"),
    "2^42 + 1 values": (gguf((tensor(b"a", (2**42 + 1,), 0), B)), "tensor 'a': its 17592186044420 bytes .* past"),
    "more than the file": (gguf((tensor(b"a", (2**40,), 0),)), "tensor 'a': its 4398046511104 bytes .* past the"),
    "half a block": (gguf((A, tensor(b"b", (48, 2), 32, 8))), "tensor 'b': rows of 48 in Q8_0: must be"),
    "type 200": (gguf((tensor(b"a", (8,), 0, 200), B)), "tensor 'a': type 200: must be one that gguf knows"),
    "integers": (gguf((tensor(b"a", (8,), 0, 26), B)), "tensor 'a': type I32: gguf does not unpack it"),
    "overlap": (gguf((A, tensor(b"b", (32, 2), 0, 8))), "tensor 'b': offset 0: must be 32, after the"),
    "a gap": (gguf((A, tensor(b"b", (32, 2), 64, 8)), data=DATA + bytes(32)), "tensor 'b': offset 64: must be 32"),
    "offset 17": (gguf((tensor(b"a", (8,), 17), B)), "tensor 'a': offset 17: must be 0"),
    "offset 2^64 - 32": (gguf((tensor(b"a", (8,), 2**64 - 32), B)), "tensor 'a': offset 184467440737095515"),
    "cut data": (gguf(data=DATA[:-1]), "tensor 'b': its 68 bytes from byte .* reach past the end"),
    "trailing bytes": (gguf(data=DATA + bytes(29)), "tensor 'b': its data end at byte .*, and 29 bytes follow"),
    "weights in the padding": (gguf((tensor(b"a", (7,), 0), B)), "tensor 'b': bytes 156 to 159 beside it are padding"),
    "cut infos": (gguf()[:90], "tensor 'b': 8 bytes from byte .* on reach past the end"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_refused_in_a_line_that_says_where(lie: str, tmp_path: Path) -> None:
    content, message = LIES[lie]
    with pytest.raises(ValueError, match=message) as refused:
        read(tmp_path, content)
    assert "\n" not in str(refused.value)
    assert str(tmp_path / "model.gguf") in str(refused.value)
