"""The files of a sharded checkpoint, read so that they cannot run code, and checked as a whole.

    __0_0.distcp, __1_0.distcp ...   tensors, as torch.distributed.checkpoint writes them
    .metadata                        of it: which part of which tensor is where
    checkpoint.json                  updates done, groups of the optimizer, sizes and sums of files

Torch keeps `.metadata` as a pickle. Here it is read so that it can name nothing but what such a
file needs: shapes, dtypes and places in files. What is not a tensor is in the JSON file.
"""

# pyright: reportPrivateImportUsage=false

import json
import pathlib
import pickle
import zlib
from collections.abc import Collection
from dataclasses import is_dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import filesystem, metadata

from ._checkpoint import CheckpointError
from ._files import atomic_write

MANIFEST = "checkpoint.json"
_METADATA = ".metadata"
_FORMAT, _VERSION = "scratch-sharded-checkpoint", 1
_CHUNK_BYTES = 2**24
_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path", "PurePath")


def checksums(folder: Path, prefix: str) -> dict[str, dict[str, int]]:
    """Return size and CRC-32 of the files whose names begin with `prefix`."""
    return {path.name: _checksum(path) for path in sorted(folder.glob(f"{prefix}*"))}


def write_manifest(folder: Path, content: dict[str, Any], files: dict[str, dict[str, int]]) -> None:
    """Write `checkpoint.json`: `content`, and what the other files have to be.

    Raises:
        TypeError: if `content` holds anything but plain values.
    """
    files = {**files, _METADATA: _checksum(folder / _METADATA)}
    about = {"format": _FORMAT, "version": _VERSION, **content, "files": files}
    about["crc32"] = _own_sum(about)
    with atomic_write(folder / MANIFEST) as file:
        file.write(json.dumps(about, indent=1).encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what `write_manifest` wrote.

    Raises:
        CheckpointError: if it is missing, damaged, or of another kind or version.
    """
    path = folder / MANIFEST
    try:
        content: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{folder} must be a checkpoint, got no {MANIFEST} in it") from None
    except ValueError:
        raise CheckpointError(f"{path} must be a JSON file, got a damaged one") from None
    values = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    if values.get("format") != _FORMAT or not isinstance(values.get("files"), dict):
        raise CheckpointError(f"{path} must be of a checkpoint that ShardedSnapshot wrote")
    if values.get("version") != _VERSION:
        raise CheckpointError(f"{path} must have version {_VERSION}, got {values.get('version')!r}")
    if values.get("crc32") != _own_sum(values):
        raise CheckpointError(f"{path} is damaged: its checksum is another")
    iteration, groups = values.get("iteration"), values.get("param_groups")
    if not isinstance(iteration, int) or isinstance(iteration, bool) or iteration < 0:
        raise CheckpointError(f"{path} must hold a number of updates, got {iteration!r}")
    if not isinstance(groups, list):
        raise CheckpointError(f"{path} must hold the groups of an optimizer, got {groups!r:.80}")
    return values


def find_damage(folder: Path, files: dict[str, Any], *, of: int, number: int) -> str:
    """Return what is wrong with the files, "" for nothing; only every `of`th is read as a whole."""
    for place, (name, wanted) in enumerate(sorted(files.items())):
        path = folder / name
        if name != Path(name).name or not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != wanted.get("bytes"):
            return f"{path} must have {wanted.get('bytes')} bytes, got {path.stat().st_size}"
        if place % of == number and _checksum(path) != wanted:
            return f"{path} is damaged: its checksum is another"
    return ""


class Reader(dcp.FileSystemReader):
    """Reads files of torch's format whose metadata name nothing but shapes, dtypes and places.

    `files` are those that may be read.
    """

    def __init__(self, folder: Path, files: Collection[str]) -> None:
        super().__init__(folder)  # pyright: ignore[reportUnknownMemberType]
        self._files = files

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        del args, kwargs
        path = Path(cast("Any", self).path) / _METADATA
        try:
            with path.open("rb") as file:
                found: Any = _Unpickler(file).load()
        except OSError:
            raise
        except Exception as error:  # whatever a strange pickle leads to
            raise CheckpointError(f"{path} is not what torch writes: {error}") from error
        if not isinstance(found, metadata.Metadata) or found.storage_meta is None:
            raise CheckpointError(f"{path} must hold metadata of tensors, got {type(found)}")
        places: dict[Any, Any] = found.storage_data
        if not all(place.relative_path in self._files for place in places.values()):
            raise CheckpointError(f"{path} must name files of its own folder")
        found.storage_meta.load_id = self.load_id
        return found


class TensorsOnly(dcp.DefaultLoadPlanner):
    """Loads tensors, which torch reads with `weights_only=True`, and refuses anything else."""

    def load_bytes(self, read_item: dcp.ReadItem, value: BytesIO) -> None:
        del value
        raise CheckpointError(f"{read_item.dest_index.fqn} must be a tensor, got a pickle")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name == "torch":
            found = getattr(torch, global_name, None)
            if isinstance(found, torch.dtype) or found is torch.Size:
                return found
        elif module_name == "torch.serialization" and global_name == "_get_layout":
            return _layout
        elif module_name.split(".")[0] == "pathlib" and global_name in _PATHS:
            return pathlib.PurePath  # nothing is read or written through it
        elif module_name == metadata.__name__:
            found = getattr(metadata, global_name, None)
            if is_dataclass(found) or global_name == "_MEM_FORMAT_ENCODING":
                return found
        elif module_name == filesystem.__name__ and global_name == "_StorageInfo":
            return filesystem._StorageInfo  # pyright: ignore[reportPrivateUsage]
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


def _layout(name: str) -> torch.layout:
    found = getattr(torch, str(name).removeprefix("torch."), None)
    if not isinstance(found, torch.layout):
        raise pickle.UnpicklingError(f"it names the layout {name}")
    return found


def _own_sum(manifest: dict[str, Any]) -> int:
    """Return the CRC-32 of everything else in a manifest."""
    rest = {key: value for key, value in manifest.items() if key != "crc32"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def _checksum(path: Path) -> dict[str, int]:
    size = total = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            size, total = size + len(chunk), zlib.crc32(chunk, total)
    return {"bytes": size, "crc32": total}
