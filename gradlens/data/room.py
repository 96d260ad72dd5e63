"""Memory for decoding: a few bytes can hold a picture of gigabytes, and eight threads decode at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradlens.data.decode import opened
from gradlens.errors import InputError

DECODING = 3 * 2**30  # bytes that all pictures being decoded may take together
# measured peaks of decoding, bytes per pixel: Pillow's picture, one converted, one as an array
PER_PIXEL, PER_DEEP_PIXEL = 16, 26
DEEP = ("I", "F", "I;16")  # how the names of modes of more than 8 bits begin


class Room:
    """Bytes that threads share; who asks for more than is left waits until others are done.

    Args:
        size: in bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def for_image(self, encoded: bytes | Path, name: str) -> Iterator[None]:
        """Room to decode one image, for as long as the block runs.

        Raises:
            InputError: it cannot be opened, or would take more than all there is.
        """
        with opened(encoded, name) as image:
            (width, height), deep = image.size, image.mode.startswith(DEEP)
        needed = width * height * (PER_DEEP_PIXEL if deep else PER_PIXEL)
        if needed > self.size:
            raise InputError(
                f"{name}: {width} x {height} pixels of {'16 or more' if deep else '8'} bits take {needed / 1e9:.1f} GB "
                f"to decode, expected at most {self.size / 1e9:.1f}; make a smaller copy"
            )
        with self._changed:
            self._changed.wait_for(lambda: self._taken + needed <= self.size)
            self._taken += needed
        try:
            yield
        finally:
            with self._changed:
                self._taken -= needed
                self._changed.notify_all()


ROOM = Room(DECODING)
