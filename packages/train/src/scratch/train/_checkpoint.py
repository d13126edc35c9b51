"""Checkpoints: everything a run needs to go on as if it had never stopped.

One file written by `torch.save`, with a name and a version inside, and read with
`weights_only=True`: a file from a stranger can be refused, but cannot run code.
"""

import errno
import operator
import zipfile
from os import PathLike, fspath
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, nn

from ._files import StrPath, atomic_write
from ._parallel import is_sharded
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
        TypeError: if `iteration` is not a whole number.
        ValueError: if it is negative.
        OSError: if the file cannot be written; an old one under the same path stays.
    """
    write_checkpoint(checkpoint_content(model, optimizer, iteration), out)


def checkpoint_content(model: Stateful, optimizer: Stateful, iteration: int) -> dict[str, Any]:
    """Return what a checkpoint holds. Raises as `save_checkpoint` for a bad `iteration`."""
    iteration = operator.index(iteration)
    if iteration < 0:
        raise ValueError(f"iteration must not be negative, got {iteration}")
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "iteration": iteration,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }


def write_checkpoint(content: dict[str, Any], out: StrPath | BinaryWriter) -> None:
    """Write the content of a checkpoint; to a path, atomically."""
    if isinstance(out, (str, PathLike)):
        with atomic_write(out) as file:
            _write(content, file)
    else:
        _write(content, out)


def load_checkpoint(
    src: StrPath | BinaryReader, model: Stateful, optimizer: Stateful | None = None
) -> int:
    """Restore `model` and, if given, `optimizer`, and return the number of updates done.

    The file is checked as a whole before either is touched. Tensors go to where the model's are; a
    model that is spread over processes takes its parts of them, each process reading the file.

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
    _check_model(content.get("model"), model.state_dict(), name)
    if optimizer is not None:
        _check_optimizer(content.get("optimizer"), optimizer.state_dict(), content["model"], name)
    if isinstance(model, nn.Module) and is_sharded(model):
        from ._sharded_checkpoint import load_whole  # which takes seconds to import

        load_whole(content, model, optimizer)
        return iteration
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
    if not _is_whole_archive(src):
        raise CheckpointError(
            f"{name} must be a complete checkpoint; it is empty, cut short, damaged or of another "
            "kind"
        )
    try:
        content: object = torch.load(cast("IO[bytes]", src), map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever a strange archive or pickle leads torch to raise
        raise CheckpointError(
            f"{name} must hold tensors and plain values as save_checkpoint writes them; it holds "
            f"something else, and is not read further ({type(error).__name__})"
        ) from error
    values = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    if values.get("format") != _FORMAT:
        raise CheckpointError(f"{name} must be a checkpoint written by save_checkpoint")
    if values.get("version") != _VERSION:
        raise CheckpointError(f"{name} must have version {_VERSION}, got {values.get('version')!r}")
    return values


def _is_whole_archive(file: BinaryReader) -> bool:
    """Check the sums of the ZIP archive that `torch.save` writes. Torch itself does not."""
    start = file.tell()
    try:
        with zipfile.ZipFile(cast("IO[bytes]", file)) as archive:
            return archive.testzip() is None
    except OSError as error:
        if error.errno == errno.EINVAL:  # a damaged archive points to a place before the file
            return False
        raise
    except MemoryError:
        raise
    except Exception:  # whatever a damaged archive leads zipfile to raise
        return False
    finally:
        file.seek(start)


def _check_model(found: object, wanted: dict[str, Any], name: str) -> None:
    if not isinstance(found, dict):
        raise CheckpointError(f"{name} must hold the state of a model, got {found!r}")
    saved = cast("dict[str, Any]", found)
    differences = [f"no {key}" for key in wanted if key not in saved]
    differences += [f"unknown {key}" for key in saved if key not in wanted]
    differences += [
        f"{key} is {_describe(saved[key])}, the model has {_describe(value)}"
        for key, value in wanted.items()
        if key in saved and _describe(saved[key]) != _describe(value)
    ]
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise CheckpointError(
            f"{name} belongs to another model: {'; '.join(differences[:3])}{more}"
        )


def _check_optimizer(
    found: object, wanted: dict[str, Any], model: dict[str, Any], name: str
) -> None:
    """Refuse the state of another kind of optimizer: its own `load_state_dict` may not."""
    if not isinstance(found, dict):
        raise CheckpointError(f"{name} must hold the state of an optimizer, got {found!r:.80}")
    if "param_groups" not in wanted:
        return  # one that keeps its state in a form of its own
    saved = cast("dict[str, Any]", found)
    if not isinstance(saved.get("state"), dict) or not isinstance(saved.get("param_groups"), list):
        raise CheckpointError(
            f"{name} belongs to another optimizer: it has {', '.join(saved) or 'nothing'}; "
            f"this one has {', '.join(wanted)}"
        )
    pairs = zip(saved["param_groups"], wanted["param_groups"], strict=False)
    for number, (group, own) in enumerate(pairs):
        if missing := own.keys() - group.keys():
            raise CheckpointError(
                f"{name} belongs to another optimizer: group {number} has no "
                f"{', '.join(sorted(missing))}"
            )
    shapes = {tuple(value.shape) for value in model.values() if isinstance(value, Tensor)}
    for values in saved["state"].values():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.ndim and tuple(value.shape) not in shapes:
                raise CheckpointError(
                    f"{name} belongs to another optimizer: {key} of shape {tuple(value.shape)} "
                    "fits no parameter"
                )


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype}"
    return type(value).__name__
