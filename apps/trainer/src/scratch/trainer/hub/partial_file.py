"""A file that is not complete yet, and the check that it is the right one when it is."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from .http_answers import Identity


class DamagedError(ValueError):
    """What has come, or what lies there, is not the file that was meant."""


class PartialFile:
    """The beginning of a file in `NAME.part`; `NAME.part.json` tells what it is the beginning of.

    Another address, or a note that is torn since the machine stopped, and it begins anew.
    """

    def __init__(self, path: Path, url: str) -> None:
        self.path = path.with_name(f"{path.name}.part")
        self.identity = Identity()
        self._final, self._url = path, url
        self._note = path.with_name(f"{path.name}.part.json")
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            if note.pop("url") != url or not self.path.exists():
                raise ValueError(note)
            self.identity = Identity(**note)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.drop()

    @property
    def num_bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def begin(self, identity: Identity) -> None:
        """Forget what has come, and note what will."""
        self.drop()
        note = {"url": self._url, **asdict(identity)}
        self._note.write_text(json.dumps(note), encoding="utf-8")
        self.identity = identity

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        self.identity = Identity()

    def finish(self) -> None:
        """Give the file its name. Removes it and raises `DamagedError` if it is another one."""
        try:
            check(self.path, self.identity)
        except DamagedError as error:
            self.drop()
            raise DamagedError(
                f"{error}; it was removed, and the same command fetches it again"
            ) from None
        self.path.replace(self._final)
        self._note.unlink()


def check_there(path: Path, identity: Identity) -> None:
    """Raise `DamagedError` if a file that lies there is not the one that is to be fetched."""
    try:
        check(path, identity)
    except DamagedError as error:
        raise DamagedError(
            f"{error}; it is another file or a damaged one, and would be fetched if it were away"
        ) from None


def check(path: Path, identity: Identity) -> None:
    size = path.stat().st_size
    if identity.num_bytes not in (None, size):
        raise DamagedError(f"{path} must have {identity.num_bytes:,} bytes, got {size:,}")
    if identity.sha256 is not None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != identity.sha256:
            raise DamagedError(f"{path} must have sha256 {identity.sha256}, got {digest}")
