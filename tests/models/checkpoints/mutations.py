"""Published folders with one thing wrong, drawn at random: lengths, counts, offsets, shapes, types, names, cuts, links.

A mutation of the numbers alone, as of two offsets exchanged between tensors of one shape, gives a whole checkpoint of
another model, and is none of these.
"""

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

INDEX = "model.safetensors.index.json"
SIZES = [0, 1, -1, 7, 2**20, 2**31, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64, 10**30]
WRONG_TYPES = [None, True, -1, 0, 0.5, "3", "", [], {}, [3], {"a": 1}, [[[]]], 2**70, 10**12]
DTYPES = ["I32", "F64", "BF16", "F4", "f32", "", "BOOL"]
NAMES = ["", "..", "\n", "\0"]
JSON_NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000]
# Where any number of the right type and range is a model that may be meant.
FREE = {"rope_theta", "rms_norm_eps", "initializer_range"}


def mutate(folder: Path, seed: int) -> str:
    """Change one thing in the folder. Returns what."""
    chance = random.Random(seed)
    change = chance.choice([_length, _cut, _entry, _entry, _entry, _header_text, _index, _index, _files, _config])
    return f"{change.__name__[1:]}: {change(folder, chance)}"


def _some_shard(folder: Path, chance: random.Random) -> Path:
    return chance.choice(sorted(folder.glob("*.safetensors")))


def _parts(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _put(path: Path, header: str, data: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header.encode())) + header.encode() + data)


def _length(folder: Path, chance: random.Random) -> str:
    path = _some_shard(folder, chance)
    content = path.read_bytes()
    size = abs(chance.choice(SIZES)) % 2**64
    length = chance.choice([size, struct.unpack("<Q", content[:8])[0] + chance.randint(-9, 9)])
    path.write_bytes(struct.pack("<Q", length) + content[8:])
    return f"header of {length} bytes"


def _cut(folder: Path, chance: random.Random) -> str:
    path = chance.choice(sorted(folder.iterdir()))
    content = path.read_bytes()
    end = chance.choice([0, 4, 8, 9, len(content) - 1, chance.randrange(len(content))])
    path.write_bytes(chance.choice([content[:end], content + content[:end], content[end:]]))
    return f"{path.name} at {end}"


def _entry(folder: Path, chance: random.Random) -> str:
    path = _some_shard(folder, chance)
    header, data = _parts(path)
    name = chance.choice([name for name in header if name != "__metadata__"])
    entry, other = header[name], chance.choice(list(header))
    size, wrong = chance.choice(SIZES), chance.choice(WRONG_TYPES)
    place = chance.randrange(2)

    def put(key: str, value: Any) -> Callable[[], Any]:
        return lambda: entry.__setitem__(key, value)

    def put_at(key: str, value: Any) -> Callable[[], Any]:
        return lambda: entry[key].__setitem__(place % len(entry[key]), value)

    changes = [
        put_at("data_offsets", size), put_at("data_offsets", entry["data_offsets"][place] + chance.randint(-8, 8)),
        put_at("data_offsets", wrong), put("data_offsets", wrong), put("data_offsets", entry["data_offsets"][::-1]),
        put("data_offsets", [size, size]), put("data_offsets", [0, *entry["data_offsets"]]), put_at("shape", size),
        put_at("shape", wrong), put("shape", wrong), put("shape", [*entry["shape"], 0]),
        put("shape", entry["shape"][1:]), put("shape", [2**32, 2**32]), put("shape", [2**63, 2]),
        put("shape", [1] * 100), put("shape", [*entry["shape"], 1]), put("dtype", chance.choice(DTYPES)),
        put("dtype", wrong), put("more", wrong), lambda: header.pop(name), lambda: header.update({name: wrong}),
        lambda: header.update({chance.choice([*NAMES, other, f"{name}.", name.upper()]): header.pop(name)}),
        lambda: header.update({"another": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
        lambda: header.update({"__metadata__": wrong}), lambda: header.update({"__metadata__": {"a": wrong}}),
        lambda: entry.pop(chance.choice(list(entry))), lambda: header.update({other: entry})]
    chosen = chance.randrange(len(changes))
    changes[chosen]()
    _put(path, json.dumps(header), data)
    return f"{path.name}, {name}, change {chosen}, {size}, {wrong!r}"


def _header_text(folder: Path, chance: random.Random) -> str:
    path = _some_shard(folder, chance)
    header, data = _parts(path)
    text, name = json.dumps(header), chance.choice(list(header))
    twice = text[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}" + "}"
    texts = [twice, "[" * 100_000, '{"a":' * 50_000, "[]", "null", text[:-1], text + " ", " " + text, text + "x", "",
             text.replace("0", chance.choice(JSON_NUMBERS), 1), text.replace('"', "'"),
             text.replace("F32", "F32\x00", 1)]
    chosen = chance.randrange(len(texts))
    _put(path, texts[chosen], data)
    return f"{path.name}, text {chosen}"


def _index(folder: Path, chance: random.Random) -> str:
    path = folder / INDEX
    index = json.loads(path.read_text())
    shards = index["weight_map"]
    name, wrong = chance.choice(list(shards)), chance.choice(WRONG_TYPES)
    places = ["..", "../x.safetensors", "/etc/passwd", "/etc/x.safetensors", "no.safetensors", "x.bin",
              "a/b.safetensors", "\n.safetensors", "a\0.safetensors", "." * 5000 + ".safetensors", "config.json",
              *shards.values()]
    place = chance.choice(places)
    changes: list[Callable[[], Any]] = [
        lambda: shards.update({name: place}), lambda: shards.pop(name), lambda: shards.update({name: wrong}),
        lambda: index.update(weight_map=wrong), lambda: index.pop("weight_map"), lambda: index.update(metadata=wrong),
        lambda: shards.update({chance.choice(["", "more", "\n"]): place})]
    chosen = chance.randrange(len(changes))
    changes[chosen]()
    text = json.dumps(index)
    if chance.random() < 0.2:
        text = chance.choice([text[:-5], text.replace("{", '{"weight_map": {}, ', 1), "[" * 99_999, f"[{text}]"])
    path.write_text(text)
    return f"{name}, change {chosen}, {place[:50]!r}, {wrong!r}"


def _files(folder: Path, chance: random.Random) -> str:
    path = chance.choice(sorted(folder.iterdir()))
    content, kind = path.read_bytes(), chance.randrange(8)
    path.unlink()
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.symlink_to("/dev/zero")
    elif kind == 3:
        outside = folder.parent / "outside"
        outside.write_bytes(content)
        path.symlink_to(outside)
    elif kind == 4:
        path.symlink_to(path.name)
    elif kind == 5:
        path.write_bytes(_some_shard(folder, chance).read_bytes())
    elif kind == 6:
        path.write_bytes(b"\x80\x04" + content)  # as a pickle begins
    return f"{path.name}, {kind}"


def _config(folder: Path, chance: random.Random) -> str:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    name, wrong = chance.choice(list(values)), chance.choice(WRONG_TYPES)
    if name in FREE and isinstance(wrong, int | float):
        wrong = "0.5"
    values[name] = wrong
    text = json.dumps(values)
    if chance.random() < 0.2:
        text = chance.choice([text.replace("{", '{"vocab_size": 97, ', 1),
                              text.replace("97", chance.choice(JSON_NUMBERS)), '{"a":' * 50_000, text[:-1],
                              f"[{text}]", text.replace("97", "[" * 9999 + "]" * 9999)])
    path.write_text(text)
    return f"{name}={wrong!r}"
