"""Damaged copies of a GGUF file: one length, count, type, shape, offset or name of its header changed, or bytes cut
out, cut off or put in. Values of keys and weights are left: they may be anything."""

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of value types
_STRING, _ARRAY = 8, 9
_EXTREMES = (0, 1, 2, 2**15, 2**30, 2**31 - 1, 2**32 - 1, 2**32, 2**42 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 32,
             2**64 - 1)


@dataclass(frozen=True)
class Place:
    """A number of 4 or 8 bytes, or the text of a name."""

    start: int
    size: int
    is_text: bool = False


class Walk:
    """The places of a whole file's header, in order."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 4
        self.places: list[Place] = []
        self._number(4)
        num_tensors, num_values = self._number(8), self._number(8)
        for _ in range(num_values):
            self._text()
            self._value(self._number(4))
        for _ in range(num_tensors):
            self._text()
            for _ in range(self._number(4)):
                self._number(8)
            self._number(4)
            self._number(8)
        self.end = self.position

    def _number(self, size: int) -> int:
        self.places.append(Place(self.position, size))
        self.position += size
        return int.from_bytes(self.data[self.position - size : self.position], "little")

    def _text(self) -> None:
        length = self._number(8)
        self.places.append(Place(self.position, length, is_text=True))
        self.position += length

    def _value(self, kind: int) -> None:
        number = 1
        if kind == _ARRAY:
            kind, number = self._number(4), self._number(8)
        for _ in range(number):
            length = self._number(8) if kind == _STRING else _SIZES[kind]
            self.position += length


def mutations(data: bytes, number: int, seed: int) -> Iterator[bytes]:
    """So many copies, none of which is the file."""
    rng, walk = random.Random(seed), Walk(data)
    while number:
        way = rng.choice((_changed, _changed, _changed, _changed, _changed, _cut, _spliced))
        found = way(rng, walk)
        if found != data:
            number -= 1
            yield found


def _changed(rng: random.Random, walk: Walk) -> bytes:
    """A place of the header with another number, or another letter."""
    place = rng.choice(walk.places)
    before, after = walk.data[: place.start], walk.data[place.start + place.size :]
    held = walk.data[place.start : place.start + place.size]
    if place.is_text:
        letter = rng.randrange(len(held))
        return before + held[:letter] + bytes([rng.randrange(256)]) + held[letter + 1 :] + after
    number = int.from_bytes(held, "little")
    changed = rng.choice((rng.choice(_EXTREMES), number + rng.choice((-32, -2, -1, 1, 2, 32)), number * 2, number // 2,
                          number ^ (1 << rng.randrange(8 * place.size)), rng.randrange(48)))
    return before + struct.pack("<Q", changed % 2**64)[: place.size] + after


def _cut(rng: random.Random, walk: Walk) -> bytes:
    """The file up to a byte of its header, or of all."""
    return walk.data[: rng.randrange(rng.choice((walk.end, len(walk.data))))]


def _spliced(rng: random.Random, walk: Walk) -> bytes:
    """Some bytes of the header left out, or put in once more; or some behind the end."""
    start = rng.choice((rng.randrange(walk.end), rng.choice(walk.places).start, len(walk.data)))
    length = rng.choice((1, 4, 8, 32, rng.randrange(1, 200)))
    if rng.random() < 0.5 and start < len(walk.data):
        return walk.data[:start] + walk.data[start + length :]
    return walk.data[:start] + (walk.data[start : start + length] or bytes(length)) + walk.data[start:]
