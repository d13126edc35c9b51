"""Fetch a file over HTTP: whole or not at all, going on after whatever breaks the connection."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import requests
from filelock import FileLock, Timeout

from ..watching.display import say
from .http_answers import BrokenError, Identity, announced, answer_of
from .partial_file import DamagedError, PartialFile, check_there
from .transfer_display import TransferDisplay

_BLOCK_BYTES = 2**16
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def fetch(
    url: str,
    path: Path,
    *,
    num_bytes: int | None = None,
    sha256: str | None = None,
    tries: int = 6,
    timeout_seconds: float = 30.0,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Bring the file at an address to `path`; return False if it was there already.

    Args:
        num_bytes: its size, if that is known; otherwise the server's word is taken.
        sha256: its checksum, likewise.
        tries: how often in a row it may fail without getting further.
        timeout_seconds: how long the server may be silent.
        pause: called with the seconds to wait before another try: 1, 2, 4, ...

    Raises:
        DamagedError: if it comes, or is there, with another size or checksum. What came is removed.
        OSError: if it cannot be fetched or written. What came is kept, and the next call goes on.
    """
    known = Identity(num_bytes, sha256)
    if path.exists() and known != Identity():
        check_there(path, known)
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path), TransferDisplay(path.name) as display:
        part = PartialFile(path, url)
        failures, furthest = 0, part.num_bytes
        while True:
            try:
                return _try(url, path, part, known, display, timeout_seconds)
            except BrokenError as error:
                got_further = part.num_bytes > furthest
                failures = 1 if got_further else failures + 1
                furthest = max(furthest, part.num_bytes)
                if failures == tries:
                    kept = f"; {part.num_bytes:,} bytes are kept" if part.num_bytes else ""
                    raise OSError(
                        f"{url} could not be fetched: {error}{kept}; the same command goes on"
                    ) from None
                seconds = 2.0 ** (failures - 1)
                say(f"{path.name}: {error}; trying again in {seconds:.0f} s")
                pause(seconds)


def _try(
    url: str,
    path: Path,
    part: PartialFile,
    known: Identity,
    display: TransferDisplay,
    timeout_seconds: float,
) -> bool:
    """Fetch what is missing; return False if the file turns out to be there."""
    was = part.identity
    if known.sha256 not in (None, was.sha256) or (was.sha256 is None and was.etag is None):
        part.drop()  # nothing would tell whether the rest belongs to it
    start = part.num_bytes
    if start and start == was.num_bytes:
        part.finish()
        return True
    headers = {"Accept-Encoding": "identity"}  # the bytes as they lie there
    if start:
        headers["Range"] = f"bytes={start}-"
        if was.etag is not None:
            headers["If-Range"] = was.etag  # all of it, if it is not what it was
    with answer_of(url, headers, timeout_seconds=timeout_seconds) as response:
        identity = _join(known, announced(response), url)
        if path.exists():
            if identity == Identity(etag=identity.etag):
                raise DamagedError(f"{path} is there, and {url} tells nothing to compare it with")
            check_there(path, identity)
            return False
        if response.status_code != 200 and not _continues(response, start, was, identity):
            part.drop()
            raise BrokenError("the file has changed since its beginning was fetched")
        if response.status_code == 200 or not start:  # some answer 206 where nobody asked
            start = 0
            part.begin(identity)
        else:
            say(f"{path.name}: going on after {start:,} bytes")
        _check_room(path, identity, start)
        display.begin(start, identity.num_bytes)
        _write(response, part, display)
    if identity.num_bytes is not None and part.num_bytes < identity.num_bytes:
        raise BrokenError("the connection was closed in the middle")
    part.finish()
    return True


def _join(known: Identity, said: Identity, url: str) -> Identity:
    """Return what is known and what the server says, which must not contradict each other."""
    for what, expected, got in (
        ("bytes", known.num_bytes, said.num_bytes),
        ("sha256", known.sha256, said.sha256),
    ):
        if expected is not None and got is not None and expected != got:
            raise DamagedError(f"{url} must be the file of {what} {expected}, got one of {got}")
    return Identity(
        num_bytes=said.num_bytes if known.num_bytes is None else known.num_bytes,
        sha256=said.sha256 if known.sha256 is None else known.sha256,
        etag=said.etag,
    )


def _continues(response: requests.Response, start: int, was: Identity, now: Identity) -> bool:
    """Whether an answer goes on where the part ends, with the rest of the same file."""
    same = all(
        None in (before, after) or before == after
        for before, after in (
            (was.num_bytes, now.num_bytes),
            (was.sha256, now.sha256),
            (was.etag, now.etag),
        )
    )
    return same and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _check_room(path: Path, identity: Identity, there: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if identity.num_bytes is not None and identity.num_bytes - there > free:
        raise OSError(
            errno.ENOSPC,
            f"the disk must have room for {identity.num_bytes - there:,} bytes, got {free:,}",
            str(path),
        )


def _write(response: requests.Response, part: PartialFile, display: TransferDisplay) -> None:
    try:
        with part.path.open("ab") as file:
            for block in response.raw.stream(_BLOCK_BYTES, decode_content=False):
                file.write(block)
                display.advance(len(block))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OSError(
            error.errno,
            "the disk is full; make room, and the same command goes on",
            str(part.path),
        ) from None


@contextmanager
def _alone(path: Path) -> Generator[None]:
    """Keep others from fetching the same file to the same place."""
    lock_path = path.with_name(f".{path.name}.lock")
    lock = FileLock(lock_path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OSError(f"{path} is being fetched by another trainer") from None
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):
            lock_path.unlink()
