"""A corpus as arrays of ids on disk: shards, and a manifest that says what they are.

The files are cut into shards before anything is encoded, and the plan is written down first. Each
shard is encoded by whoever takes it, written under a temporary name and renamed, so a shard that is
there is complete. Whoever starts again finds the same plan, and does what is missing. The manifest
comes last: a folder without one is not finished.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import lru_cache
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ._files import write_atomically
from ._npy import NpyWriter, id_type
from ._parts import Part, split_into_parts
from ._read import Errors, check_errors, read_blocks
from ._stream import StrPath
from ._workers import Progress, available_cores, check_workers, executor_of, run_in_order

if TYPE_CHECKING:
    from ._tokenizer import Tokenizer

_FORMAT, _VERSION = "scratch-bpe-shards", 1
_PLAN, _MANIFEST, _TOKENIZER = "plan.json", "manifest.json", "tokenizer.json"
_POOL_PAYS_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Shard:
    """One file of ids.

    Attributes:
        file: its name in the folder of the manifest.
        num_tokens: how many ids it holds.
        num_bytes: of how many bytes of the files that were read, compressed as they are.
    """

    file: str
    num_tokens: int
    num_bytes: int


@dataclass(frozen=True)
class ShardManifest:
    """What `Tokenizer.encode_files` wrote.

    Attributes:
        folder: where it is.
        shards: in the order of the text.
        dtype: of the ids, "uint16" or "uint32".
        vocab_size: of the tokenizer.
    """

    folder: Path
    shards: tuple[Shard, ...]
    dtype: str
    vocab_size: int

    @property
    def num_tokens(self) -> int:
        return sum(shard.num_tokens for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        return sum(shard.num_bytes for shard in self.shards)

    def arrays(self) -> Iterator[np.memmap[Any, Any]]:
        """Yield the ids of each shard, mapped from the disk."""
        for shard in self.shards:
            yield np.load(self.folder / shard.file, mmap_mode="r")

    @classmethod
    def load(cls, folder: StrPath) -> Self:
        """Read the manifest in a folder.

        Raises:
            ValueError: if it is not one, or a shard is missing or not as long as it says.
        """
        path = Path(folder) / _MANIFEST
        try:
            content = json.loads(path.read_bytes())
            if (content["format"], content["version"]) != (_FORMAT, _VERSION):
                raise ValueError(f"its format is {content['format']!r}, {content['version']!r}")
            shards = tuple(Shard(**shard) for shard in content["shards"])
            manifest = cls(Path(folder), shards, content["dtype"], content["vocab_size"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{fspath(path)} must be a manifest of {_FORMAT} version {_VERSION}: {error!r}"
            ) from None
        for shard in manifest.shards:
            try:
                found = _num_tokens(manifest.folder / shard.file)
            except (OSError, EOFError, ValueError) as error:
                found = repr(error)
            if found != shard.num_tokens:
                raise ValueError(
                    f"{shard.file} must hold {shard.num_tokens} ids, got {found}; "
                    "remove the folder and encode again"
                )
        return manifest


@dataclass(frozen=True)
class _ShardPlan:
    """What goes into one shard: parts of files, and whether each is the last of its file."""

    file: str
    parts: tuple[tuple[Part, bool], ...]

    @property
    def size(self) -> int:
        return sum(part.size for part, _ in self.parts)


def encode_files(
    tokenizer: "Tokenizer",
    paths: Sequence[StrPath],
    out: StrPath,
    *,
    end_of_file: str | None,
    shard_bytes: int,
    workers: int | None,
    executor: Executor | None,
    errors: Errors,
    progress: Progress | None,
) -> ShardManifest:
    """See `Tokenizer.encode_files`."""
    files = list(paths)
    _check(tokenizer, files, end_of_file, shard_bytes)
    check_errors(errors)
    check_workers(workers, executor)
    vocabulary = tokenizer.vocabulary
    parts = list(
        split_into_parts(
            files,
            part_bytes=shard_bytes,
            pattern=vocabulary.pattern,
            special_tokens=vocabulary.special_tokens,
        )
    )
    plan = _plan(parts, shard_bytes)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    digest = _write_plan(tokenizer, folder, plan, end_of_file, errors)
    for name in ("shard-*.npy", _PLAN, _TOKENIZER, _MANIFEST):
        for unfinished in folder.glob(f".{name}.*.tmp"):  # of a process that was killed
            unfinished.unlink(missing_ok=True)

    missing = [shard for shard in plan if not (folder / shard.file).exists()]
    total_bytes = sum(shard.size for shard in plan)
    done_bytes = total_bytes - sum(shard.size for shard in missing)
    if workers is None:
        workers = 1 if total_bytes - done_bytes < _POOL_PAYS_BYTES else available_cores()
    job = _Job(folder, digest, end_of_file, errors)
    _HANDED_DOWN[digest] = tokenizer
    try:
        with executor_of(executor, max(1, min(workers, len(missing)))) as pool:
            for shard, _ in run_in_order(pool, job, missing):
                done_bytes += shard.size
                if progress is not None:
                    progress("encode", done_bytes, total_bytes)
    finally:
        _HANDED_DOWN.pop(digest, None)  # which another thread may have done
    return _write_manifest(tokenizer, folder, plan)


# Tokenizers of calls under way, by the hash of their files: this process and its forks have them.
_HANDED_DOWN: dict[str, "Tokenizer"] = {}


@lru_cache(maxsize=1)
def _load(path: Path, digest: str) -> "Tokenizer":
    from ._tokenizer import Tokenizer  # which imports this module

    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise ValueError(f"{path} must not change while files are encoded, got hash {found}")
    return Tokenizer.load(path)


@dataclass(frozen=True)
class _Job:
    """Encodes shards, in whatever process it finds itself."""

    folder: Path
    digest: str
    end_of_file: str | None
    errors: Errors

    def __call__(self, shard: _ShardPlan) -> None:
        tokenizer = _HANDED_DOWN.get(self.digest) or _load(self.folder / _TOKENIZER, self.digest)
        end_id = None if self.end_of_file is None else tokenizer.special_tokens[self.end_of_file]
        dtype = id_type(tokenizer.vocab_size)
        with NpyWriter(self.folder / shard.file, dtype) as file:
            for part, ends_file in shard.parts:
                blocks = read_blocks(
                    part.path, errors=self.errors, start=part.start, stop=part.stop
                )
                for ids in tokenizer.encode_blocks(blocks):
                    file.write(ids)
                if ends_file and end_id is not None:
                    file.write(np.array([end_id], dtype))


def _check(
    tokenizer: "Tokenizer", files: Sequence[StrPath], end_of_file: str | None, shard_bytes: int
) -> None:
    if not files:
        raise ValueError("paths must name at least one file, got none")
    if end_of_file is not None and end_of_file not in tokenizer.special_tokens:
        known = ", ".join(map(repr, tokenizer.special_tokens)) or "none"
        raise ValueError(
            f"end_of_file must be a special token of the tokenizer ({known}), got {end_of_file!r}"
        )
    if isinstance(shard_bytes, bool) or not isinstance(shard_bytes, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"shard_bytes must be a whole number, got {shard_bytes!r}")
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes must be at least 1, got {shard_bytes}")


def _plan(parts: Sequence[Part], shard_bytes: int) -> list[_ShardPlan]:
    """Put parts together until a shard is full."""
    plan: list[_ShardPlan] = []
    gathered: list[tuple[Part, bool]] = []
    gathered_bytes = 0
    for number, part in enumerate(parts):
        following = parts[number + 1] if number + 1 < len(parts) else None
        ends_file = following is None or following.start == 0
        gathered.append((part, ends_file))
        gathered_bytes += part.size
        if following is None or gathered_bytes >= shard_bytes:
            plan.append(_ShardPlan(f"shard-{len(plan):05d}.npy", tuple(gathered)))
            gathered, gathered_bytes = [], 0
    return plan


def _write_plan(
    tokenizer: "Tokenizer",
    folder: Path,
    plan: Sequence[_ShardPlan],
    end_of_file: str | None,
    errors: Errors,
) -> str:
    """Write down what will be done, or see that it was begun; return the hash of the tokenizer.

    Raises:
        ValueError: if the folder holds shards of something else.
    """
    data = tokenizer.vocabulary.to_json()
    digest = hashlib.sha256(data).hexdigest()
    sources = {part.path for shard in plan for part, _ in shard.parts}
    content = {
        "format": f"{_FORMAT}-plan",
        "version": _VERSION,
        "tokenizer_sha256": digest,
        "end_of_file": end_of_file,
        "errors": errors,
        "modified_ns": {path: Path(path).stat().st_mtime_ns for path in sorted(sources)},
        "shards": [asdict(shard) for shard in plan],
    }
    path = folder / _PLAN
    written = json.dumps(content, indent=1).encode()
    if path.exists():
        if path.read_bytes() != written:
            raise ValueError(
                f"{folder} holds shards of other files or settings already; "
                "choose another folder, or remove it"
            )
    elif any(folder.glob("shard-*.npy")) or (folder / _MANIFEST).exists():
        raise ValueError(f"{folder} must not hold shards without their {_PLAN}; remove it")
    else:
        write_atomically(folder / _TOKENIZER, data)
        write_atomically(path, written)
    return digest


def _write_manifest(
    tokenizer: "Tokenizer", folder: Path, plan: Sequence[_ShardPlan]
) -> ShardManifest:
    shards = tuple(
        Shard(shard.file, _num_tokens(folder / shard.file), shard.size) for shard in plan
    )
    vocab_size = tokenizer.vocab_size
    manifest = ShardManifest(folder, shards, np.dtype(id_type(vocab_size)).name, vocab_size)
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "dtype": manifest.dtype,
        "vocab_size": vocab_size,
        "num_tokens": manifest.num_tokens,
        "num_bytes": manifest.num_bytes,
        "shards": [asdict(shard) for shard in shards],
    }
    write_atomically(folder / _MANIFEST, json.dumps(content, indent=1).encode())
    return manifest


def _num_tokens(path: Path) -> int:
    return len(np.load(path, mmap_mode="r"))
