"""What `gzip -9` and `xz -9` make of a text: what a model of it should beat."""

import lzma
import time
import zlib

_GZIP_FORMAT = 31  # of zlib: the largest window, 15 bits, and a header of gzip


class Compressors:
    """Compresses a text that comes in parts as one file, and keeps only the sizes.

    Attributes:
        num_bytes: of the text so far.
        seconds: spent here so far.
    """

    def __init__(self) -> None:
        self._gzip = zlib.compressobj(9, zlib.DEFLATED, _GZIP_FORMAT)
        self._xz = lzma.LZMACompressor(preset=9)
        self._gzip_bytes = self._xz_bytes = 0
        self.num_bytes = 0
        self.seconds = 0.0

    def add(self, text: bytes) -> None:
        started = time.monotonic()
        self.num_bytes += len(text)
        self._gzip_bytes += len(self._gzip.compress(text))
        self._xz_bytes += len(self._xz.compress(text))
        self.seconds += time.monotonic() - started

    def finish(self) -> tuple[int, int]:
        """Return the bytes that the text takes with gzip, and with xz."""
        started = time.monotonic()
        self._gzip_bytes += len(self._gzip.flush())
        self._xz_bytes += len(self._xz.flush())
        self.seconds += time.monotonic() - started
        return self._gzip_bytes, self._xz_bytes
