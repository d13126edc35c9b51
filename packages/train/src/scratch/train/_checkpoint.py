"""Checkpoints: everything a run needs to go on as if it had never stopped.

One file written by `torch.save`, with a name and a version inside, and read with
`weights_only=True`: a file from a stranger can be refused, but cannot run code.
"""

from os import PathLike, fspath
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from ._files import StrPath, atomic_write
from ._protocols import BinaryReader, BinaryWriter, Stateful

_FORMAT, _VERSION = "scratch-checkpoint", 1


class CheckpointError(ValueError):
    """A file that is not a good checkpoint, or not one of this model."""


def save_checkpoint(
    model: Stateful, optimizer: Stateful, iteration: int, out: StrPath | BinaryWriter
) -> None:
    """Write the state of `model` and `optimizer` and the number of updates done.

    To a path the write is atomic: whatever happens, there is the old file or the new one. A file
    object is written to as it is.

    Raises:
        ValueError: if `iteration` is negative.
        OSError: if the file cannot be written; an old one under the same path stays.
    """
    if iteration < 0:
        raise ValueError(f"iteration must not be negative, got {iteration}")
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "iteration": iteration,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    if isinstance(out, (str, PathLike)):
        with atomic_write(out) as file:
            _write(content, file)
    else:
        _write(content, out)


def load_checkpoint(
    src: StrPath | BinaryReader, model: Stateful, optimizer: Stateful | None = None
) -> int:
    """Restore `model` and, if given, `optimizer`, and return the number of updates done.

    The file is checked as a whole before either is touched. Tensors go to where the model's are.

    Raises:
        CheckpointError: if the file is empty, cut short, of another kind or version, or belongs to
            another model or optimizer; it names what does not fit.
        OSError: if the file cannot be read.
    """
    name = fspath(src) if isinstance(src, (str, PathLike)) else "the file"
    content = _read(src, name)
    iteration = content.get("iteration")
    if not isinstance(iteration, int) or iteration < 0:
        raise CheckpointError(f"{name} must hold a number of updates, got {iteration!r}")
    _check_fit(cast("dict[str, Any]", content.get("model")), model.state_dict(), name)
    if optimizer is not None:
        try:
            optimizer.load_state_dict(content["optimizer"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{name} does not fit the optimizer: {error}") from error
    model.load_state_dict(content["model"])
    return iteration


class _Watched:
    """A file to write to that remembers why it failed: torch tells only that something did."""

    def __init__(self, file: BinaryWriter) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, data: bytes | memoryview) -> object:
        try:
            return self._file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _write(content: dict[str, Any], file: BinaryWriter) -> None:
    watched = _Watched(file)
    try:
        torch.save(content, cast("IO[bytes]", watched))
    except RuntimeError as error:
        if watched.failure is None:
            raise
        raise watched.failure from error


def _read(src: StrPath | BinaryReader, name: str) -> dict[str, Any]:
    if isinstance(src, (str, PathLike)):
        with Path(src).open("rb") as file:
            return _read(file, name)
    try:
        content = torch.load(cast("IO[bytes]", src), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged archive or pickle leads torch to raise
        reason = str(error).split("\n")[0]
        raise CheckpointError(
            f"{name} must be a complete checkpoint; it is empty, cut short or of another kind: "
            f"{reason}"
        ) from error
    content = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    if content.get("format") != _FORMAT:
        raise CheckpointError(f"{name} must be a checkpoint written by save_checkpoint")
    if content.get("version") != _VERSION:
        raise CheckpointError(
            f"{name} must have version {_VERSION}, got {content.get('version')!r}"
        )
    return content


def _check_fit(found: dict[str, Any] | None, wanted: dict[str, Any], name: str) -> None:
    if not isinstance(found, dict):
        raise CheckpointError(f"{name} must hold the state of a model, got {found!r}")
    differences = [f"no {key}" for key in wanted if key not in found]
    differences += [f"unknown {key}" for key in found if key not in wanted]
    for key in wanted.keys() & found.keys():
        old, new = wanted[key], found[key]
        if isinstance(old, Tensor) and isinstance(new, Tensor) and old.shape != new.shape:
            differences.append(f"{key} is {tuple(new.shape)}, the model has {tuple(old.shape)}")
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise CheckpointError(
            f"{name} belongs to another model: {'; '.join(sorted(differences)[:3])}{more}"
        )
