"""Token files and the batches read from them.

A token file is one `.npy` array of unsigned integers, memory-mapped: opening it reads nothing, and
a batch touches only its own windows. Several files are one stream as `TokenShards`.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import fspath
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from ._files import StrPath, atomic_write
from ._shards import Tokens, TokenShards, TokenStream, check_array, gather
from ._transfer import send


@dataclass(frozen=True)
class Batch:
    """Token ids and what should follow them.

    `targets[:, -1]` follows the last input. There are as many targets as inputs, or fewer: then
    they belong to the last inputs, and the ones before are context only.
    """

    inputs: Int[Tensor, "batch seq"]
    targets: Int[Tensor, "batch scored"]

    def __post_init__(self) -> None:
        rows, seq = self.inputs.shape
        if self.targets.shape[0] != rows or self.targets.shape[1] > seq:
            raise ValueError(
                "targets must have a row for each of inputs, and no more columns, "
                f"got inputs {tuple(self.inputs.shape)}, targets {tuple(self.targets.shape)}"
            )


def get_batch(
    dataset: TokenStream,
    batch_size: int,
    context_length: int,
    device: torch.device | str = "cpu",
    *,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Return `(inputs, targets)` for `batch_size` windows that start anywhere, with replacement.

    Args:
        dataset: token ids in one dimension, in memory or memory-mapped, or several shards of them.
        batch_size: windows to draw.
        context_length: tokens of each window; the targets are the inputs one token later.
        device: where the tensors go; torch says so itself if there is no such device.
        generator: the source of chance, on the CPU; torch's own by default.

    Raises:
        TypeError: if `dataset` does not hold integers.
        ValueError: if it has not one dimension, is too short for one window, or a size is below 1.
    """
    _check_sizes(batch_size=batch_size, context_length=context_length)
    check_tokens(dataset, context_length)
    starts = torch.randint(len(dataset) - context_length, (batch_size,), generator=generator)
    batch = window_batch(dataset, starts.numpy(), context_length, device)
    return batch.inputs, batch.targets


def window_batch(
    dataset: TokenStream,
    starts: npt.NDArray[np.integer[Any]] | Sequence[int],
    context_length: int,
    device: torch.device | str = "cpu",
) -> Batch:
    """Return the windows of `dataset` at `starts` as int64 tensors on `device`.

    One gather reads `context_length + 1` tokens a window. To a CUDA device ids go as wide as they
    are stored, from pinned memory, and the host does not wait for them.

    Raises:
        TypeError: if `dataset` does not hold integers.
        ValueError: if it has not one dimension, is too short for one window, or a start lies
            outside `0 .. len(dataset) - context_length - 1`.
    """
    check_tokens(dataset, context_length)
    rows = np.asarray(starts, np.int64)
    last = len(dataset) - context_length - 1
    if rows.size and not 0 <= rows.min() <= rows.max() <= last:
        wrong = rows.min() if rows.min() < 0 else rows.max()
        raise ValueError(f"starts must be in 0 .. {last}, got {wrong}")
    if isinstance(dataset, TokenShards):
        windows = dataset.windows(rows, context_length + 1)
    else:
        windows = gather(dataset, rows, context_length + 1)
    return Batch(*send(windows, torch.device(device)))


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the smallest of uint16 and uint32 that holds the ids below `vocab_size`.

    Raises:
        ValueError: if neither does, or `vocab_size` is below 1.
    """
    if not 1 <= vocab_size <= 2**32:
        raise ValueError(f"vocab_size must be in 1 .. 2**32, got {vocab_size}")
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def write_tokens(
    path: StrPath, blocks: Iterable[Sequence[int] | Tokens], *, vocab_size: int
) -> int:
    """Write blocks of token ids, one after another, as one token file; return their number.

    Holds one block at a time. The file appears under its name only when it is complete.

    Raises:
        TypeError: if a block holds anything but integers.
        ValueError: if it has not one dimension, or an id is not in `0 .. vocab_size - 1`.
    """
    dtype = token_dtype(vocab_size)
    total = 0
    with atomic_write(path) as file:
        # The header leaves room for any length, so it can be written again at the end.
        _write_header(file, dtype, 0)
        for block in blocks:
            ids = _check_ids(np.asarray(block), vocab_size)
            file.write(ids.astype(dtype).tobytes())
            total += len(ids)
        file.seek(0)
        _write_header(file, dtype, total)
    return total


def open_tokens(path: StrPath) -> Tokens:
    """Return the tokens of a file as a read-only, memory-mapped array.

    Raises:
        ValueError: if the file is not a good token file, naming it.
        OSError: if it cannot be read.
    """
    with Path(path).open("rb") as file:
        try:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("its version is not 1.0")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        except Exception as error:  # whatever a damaged header leads numpy to raise
            raise ValueError(f"{fspath(path)} must be a complete .npy file: {error}") from error
        offset, size_bytes = file.tell(), file.seek(0, os.SEEK_END)
    if len(shape) != 1 or dtype.kind != "u":
        raise ValueError(
            f"{fspath(path)} must hold unsigned integers in one dimension, "
            f"got {dtype} of shape {shape}"
        )
    wanted_bytes = offset + shape[0] * dtype.itemsize
    if size_bytes != wanted_bytes:
        raise ValueError(
            f"{fspath(path)} must be a complete .npy file of {wanted_bytes} bytes, got {size_bytes}"
        )
    if shape[0] == 0:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "r", offset, shape)


def check_tokens(dataset: TokenStream, context_length: int) -> None:
    if not isinstance(dataset, TokenShards):
        check_array(dataset, "dataset")
    if len(dataset) <= context_length:
        raise ValueError(
            "dataset must be longer than context_length, for every window has a next token, "
            f"got {len(dataset)} tokens, context_length={context_length}"
        )


def _check_ids(ids: npt.NDArray[Any], vocab_size: int) -> npt.NDArray[Any]:
    if ids.ndim != 1:
        raise ValueError(f"ids must have one dimension, got shape {ids.shape}")
    if ids.size:
        if ids.dtype.kind not in "iuO":  # integers, or objects: Python's own beyond 64 bits
            raise TypeError(f"ids must be whole numbers, got dtype {ids.dtype}")
        least, greatest = ids.min(), ids.max()
        if not 0 <= least <= greatest < vocab_size:
            wrong = least if least < 0 else greatest
            raise ValueError(f"ids must be in 0 .. {vocab_size - 1}, got {wrong}")
    return ids


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def _write_header(file: Any, dtype: np.dtype[Any], length: int) -> None:
    header = {"descr": dtype.newbyteorder("<").str, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, header)
