"""A corpus as arrays of ids on disk: shards, and a manifest that says what they are.

The files are cut into shards before anything is encoded, and the plan is written down first. Each
shard is encoded by whoever takes it, written under a temporary name and renamed, so a shard that is
there is complete. Whoever starts again finds the same plan, and does what is missing. The manifest
comes last: a folder without one is not finished.

Workers on other machines may live on when the call that they worked for is dead, or be taken for
dead and come back. Two that write one shard write the same, under temporary names of their own.
What belongs to an earlier plan never gets a name: a call writes its plan and then removes all
temporary files; a worker opens its temporary file and then reads the plan. So either the file is
removed, and cannot be renamed, or the worker sees that the plan is not its own.
"""

import errno
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from ._files import write_atomically
from ._manifest import FORMAT, MANIFEST, VERSION, Shard, ShardManifest, num_tokens_of
from ._npy import NpyWriter, id_type
from ._parts import Part, split_into_parts
from ._read import Errors, check_errors, read_blocks
from ._stream import StrPath
from ._workers import (
    SHARED,
    Afar,
    Progress,
    available_cores,
    check_workers,
    executor_of,
    run_in_order,
)

if TYPE_CHECKING:
    from ._tokenizer import Tokenizer

_PLAN, _TOKENIZER = "plan.json", "tokenizer.json"
_POOL_PAYS_BYTES = 16 * 2**20
# Nothing comes back but the news, and a cluster may have hundreds of workers.
_MOST_UNDER_WAY = 2**10


@dataclass(frozen=True)
class _ShardPlan:
    """What goes into one shard: parts of files, and whether each is the last of its file."""

    file: str
    parts: tuple[tuple[Part, bool], ...]

    @property
    def size(self) -> int:
        return sum(part.size for part, _ in self.parts)

    def absolute(self) -> Self:
        """Return the same for whoever works in another directory."""
        return replace(self, parts=tuple((part.absolute(), last) for part, last in self.parts))


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
    digest, plan_digest = _write_plan(tokenizer, folder, plan, end_of_file, errors)
    _remove_unfinished(folder)
    # NFS remembers for a while which names it did not find, so no missing name is asked for.
    there = {path.name for path in folder.iterdir()}
    missing = [shard for shard in plan if shard.file not in there]
    total_bytes = sum(shard.size for shard in plan)
    done_bytes = total_bytes - sum(shard.size for shard in missing)
    if workers is None:
        workers = 1 if total_bytes - done_bytes < _POOL_PAYS_BYTES else available_cores()
    job = _Job(folder, digest, plan_digest, end_of_file, errors)
    work = job
    if executor is not None:
        work = Afar(replace(job, folder=folder.absolute()))
        missing = [shard.absolute() for shard in missing]
    _HANDED_DOWN[digest] = tokenizer
    try:
        with executor_of(executor, max(1, min(workers, len(missing)))) as pool:
            for shard, _ in run_in_order(pool, work, missing, most_under_way=_MOST_UNDER_WAY):
                done_bytes += shard.size
                if progress is not None:
                    progress("encode", done_bytes, total_bytes)
    finally:
        _HANDED_DOWN.pop(digest, None)  # which another thread may have done
    _remove_unfinished(folder)
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
    plan_digest: str
    end_of_file: str | None
    errors: Errors

    def __call__(self, shard: _ShardPlan) -> None:
        path = self.folder / shard.file
        if path.exists():  # by a worker that was lost before it could tell
            return
        try:
            self._encode(shard, path)
        except FileNotFoundError as error:
            if error.filename2 is None:
                raise
            if not path.exists():
                raise ValueError(
                    f"{self.folder} must be written by one call at a time, "
                    f"got another that removed {error.filename}"
                ) from None

    def _encode(self, shard: _ShardPlan, path: Path) -> None:
        tokenizer = _HANDED_DOWN.get(self.digest) or _load(self.folder / _TOKENIZER, self.digest)
        end_id = None if self.end_of_file is None else tokenizer.special_tokens[self.end_of_file]
        dtype = id_type(tokenizer.vocab_size)
        with NpyWriter(path, dtype) as file:
            self._check_plan()  # when the file is open: see above
            for part, ends_file in shard.parts:
                blocks = read_blocks(
                    part.path, errors=self.errors, start=part.start, stop=part.stop
                )
                for ids in tokenizer.encode_blocks(blocks):
                    file.write(ids)
                if ends_file and end_id is not None:
                    file.write(np.array([end_id], dtype))

    def _check_plan(self) -> None:
        path = self.folder / _PLAN
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != self.plan_digest:
            raise ValueError(f"{path} must not change while files are encoded, got hash {found}")


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
) -> tuple[str, str]:
    """Write down what will be done, or see that it was begun.

    Returns the hashes of the tokenizer and of the plan.

    Raises:
        ValueError: if the folder holds shards of something else.
    """
    data = tokenizer.vocabulary.to_json()
    digest = hashlib.sha256(data).hexdigest()
    sources = {part.path for shard in plan for part, _ in shard.parts}
    content = {
        "format": f"{FORMAT}-plan",
        "version": VERSION,
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
    elif any(folder.glob("shard-*.npy")) or (folder / MANIFEST).exists():
        raise ValueError(f"{folder} must not hold shards without their {_PLAN}; remove it")
    else:
        write_atomically(folder / _TOKENIZER, data)
        write_atomically(path, written)
    return digest, hashlib.sha256(written).hexdigest()


def _remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed have left, to make room."""
    for name in ("shard-*.npy", _PLAN, _TOKENIZER, MANIFEST):
        for unfinished in folder.glob(f".{name}.*.tmp"):
            unfinished.unlink(missing_ok=True)


def _write_manifest(
    tokenizer: "Tokenizer", folder: Path, plan: Sequence[_ShardPlan]
) -> ShardManifest:
    shards: list[Shard] = []
    for shard in plan:
        path = folder / shard.file
        try:
            shards.append(Shard(shard.file, num_tokens_of(path), shard.size))
        except FileNotFoundError:
            raise FileNotFoundError(
                errno.ENOENT,
                f"a worker wrote this shard, but it is not seen here; {SHARED}",
                fspath(path),
            ) from None
    dtype = np.dtype(id_type(tokenizer.vocab_size)).name
    manifest = ShardManifest(folder, tuple(shards), dtype, tokenizer.vocab_size)
    manifest.save()
    return manifest
