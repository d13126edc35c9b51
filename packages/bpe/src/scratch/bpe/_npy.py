"""One-dimensional `.npy` files written piece by piece, whole or not at all."""

import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ._stream import StrPath

_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER_BYTES = 128


def id_type(vocab_size: int) -> type[np.uint16 | np.uint32]:
    """Return the smallest type that holds all ids."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


class NpyWriter:
    """Writes arrays one after another into one file; use it in a `with` statement.

    The file is written beside `path`, and gets its name at the end of the block, flushed to the
    disk; if the block ends with an exception, nothing is left of it.

    Attributes:
        size: how many values there are so far.
    """

    def __init__(self, path: StrPath, dtype: DTypeLike) -> None:
        self._path = Path(os.path.realpath(path))
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self.size = 0

    def __enter__(self) -> Self:
        self._temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}.tmp")
        self._file = self._temporary.open("xb")
        self._file.write(bytes(_HEADER_BYTES))
        return self

    def write(self, values: NDArray[Any]) -> None:
        """Append the values."""
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self.size += len(values)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._file:
                if error is None:
                    self._file.seek(0)
                    self._file.write(self._header())
                    self._file.flush()
                    os.fsync(self._file.fileno())
            if error is None:
                self._temporary.replace(self._path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def _header(self) -> bytes:
        """Return version 1.0 of the header; it is padded, so its length does not depend on size."""
        about = (
            f"{{'descr': {self._dtype.str!r}, 'fortran_order': False, 'shape': ({self.size},), }}"
        )
        rest = about.ljust(_HEADER_BYTES - len(_MAGIC) - 3) + "\n"
        return _MAGIC + len(rest).to_bytes(2, "little") + rest.encode("latin-1")
