"""Token files and the batches read from them.

A token file is one `.npy` array of unsigned integers, memory-mapped: opening it reads nothing, and
a batch touches only its own windows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import fspath
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from ._files import StrPath, atomic_write

Tokens = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Batch:
    """Token ids and what should follow them.

    `targets[:, -1]` follows the last input. There are as many targets as inputs, or fewer: then
    they belong to the last inputs, and the ones before are context only.
    """

    inputs: Int[Tensor, "batch seq"]
    targets: Int[Tensor, "batch scored"]


def get_batch(
    dataset: Tokens,
    batch_size: int,
    context_length: int,
    device: torch.device | str = "cpu",
    *,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Return `(inputs, targets)` for `batch_size` windows that start anywhere, with replacement.

    Args:
        dataset: token ids in one dimension, in memory or memory-mapped.
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
    dataset: Tokens,
    starts: npt.NDArray[np.integer[Any]] | Sequence[int],
    context_length: int,
    device: torch.device | str = "cpu",
) -> Batch:
    """Return the windows of `dataset` at `starts` as int64 tensors on `device`.

    One gather reads `context_length + 1` tokens a window, of which inputs and targets are views.
    """
    windows = sliding_window_view(np.asarray(dataset), context_length + 1)[np.asarray(starts)]
    tokens = torch.as_tensor(windows.astype(np.int64)).to(device)
    return Batch(inputs=tokens[:, :-1], targets=tokens[:, 1:])


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the smallest of uint16 and uint32 that holds the ids below `vocab_size`.

    Raises:
        ValueError: if neither does, or `vocab_size` is below 1.
    """
    if not 1 <= vocab_size <= 2**32:
        raise ValueError(f"vocab_size must be in 1 .. 2**32, got {vocab_size}")
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def write_tokens(path: StrPath, blocks: Iterable[Sequence[int]], *, vocab_size: int) -> int:
    """Write blocks of token ids, one after another, as one token file; return their number.

    Holds one block at a time. The file appears under its name only when it is complete.

    Raises:
        ValueError: if an id is not in `0 .. vocab_size - 1`.
    """
    dtype = token_dtype(vocab_size)
    total = 0
    with atomic_write(path) as file:
        # The header leaves room for any length, so it can be written again at the end.
        _write_header(file, dtype, 0)
        for block in blocks:
            ids = np.asarray(block, dtype=np.int64)
            if len(ids) and not 0 <= ids.min() <= ids.max() < vocab_size:
                wrong = int(ids.min() if ids.min() < 0 else ids.max())
                raise ValueError(f"ids must be in 0 .. {vocab_size - 1}, got {wrong}")
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
    try:
        tokens = cast("Tokens", np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise ValueError(f"{fspath(path)} must be a complete .npy file: {error}") from error
    if not isinstance(tokens, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"{fspath(path)} must be one .npy array, got an archive of several")
    if tokens.ndim != 1 or tokens.dtype.kind != "u":
        raise ValueError(
            f"{fspath(path)} must hold unsigned integers in one dimension, "
            f"got {tokens.dtype} of shape {tokens.shape}"
        )
    return tokens


def check_tokens(dataset: Tokens, context_length: int) -> None:
    if not np.issubdtype(dataset.dtype, np.integer):
        raise TypeError(f"dataset must hold integers, got dtype {dataset.dtype}")
    if dataset.ndim != 1:
        raise ValueError(f"dataset must have one dimension, got shape {dataset.shape}")
    if len(dataset) <= context_length:
        raise ValueError(
            "dataset must be longer than context_length, for every window has a next token, "
            f"got {len(dataset)} tokens, context_length={context_length}"
        )


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def _write_header(file: Any, dtype: np.dtype[Any], length: int) -> None:
    header = {"descr": dtype.newbyteorder("<").str, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, header)
