"""Reading on in a file that is not trusted: nothing is read or taken because of what it says before that is checked."""

import struct
from codecs import getincrementaldecoder
from mmap import mmap
from pathlib import Path
from typing import Any

_BYTES_AT_ONCE = 2**14


class Cursor:
    """Reads on from `position`, never past the end. Errors are ValueErrors, and say what is read: `about`."""

    def __init__(self, data: mmap, path: Path, position: int = 0) -> None:
        self.data, self.path, self.position, self.about = data, path, position, "header"

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def refused(self, reason: str) -> ValueError:
        return ValueError(f"{self.path}: {self.about}: {reason}")

    def skip(self, num_bytes: int) -> int:
        """Where these bytes begin."""
        if num_bytes > self.left:
            raise self.refused(f"{num_bytes} bytes from byte {self.position} on reach past the end of the file")
        start = self.position
        self.position += num_bytes
        return start

    def number(self, layout: str) -> Any:
        """One in a format of `struct`."""
        return struct.unpack_from(layout, self.data, self.skip(struct.calcsize(layout)))[0]

    def count(self, what: str, smallest: int) -> int:
        """How many things follow of which each takes at least `smallest` bytes."""
        number = self.number("<Q")
        if number > self.left // smallest:
            raise self.refused(f"{number} {what}: more than the {self.left} bytes to the end of the file hold")
        return number

    def text(self, what: str, at_most: int) -> str:
        """Its length in bytes, then so many of UTF-8."""
        start, end = self._passed(what, at_most)
        try:
            return self.data[start:end].decode()
        except UnicodeDecodeError:
            raise self._no_text(what, start) from None

    def pass_text(self, what: str, at_most: int) -> None:
        """As `text`, of which it holds a little at a time."""
        start, end = self._passed(what, at_most)
        decoder = getincrementaldecoder("utf-8")()
        try:
            for place in range(start, end, _BYTES_AT_ONCE):
                decoder.decode(self.data[place : min(place + _BYTES_AT_ONCE, end)])
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            raise self._no_text(what, start) from None

    def _passed(self, what: str, at_most: int) -> tuple[int, int]:
        length = self.number("<Q")
        if length > at_most:
            raise self.refused(f"{what} of {length} bytes: must be at most {at_most}")
        start = self.skip(length)
        return start, self.position

    def _no_text(self, what: str, start: int) -> ValueError:
        return self.refused(f"{what} from byte {start} on: must be UTF-8")
