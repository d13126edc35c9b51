"""What data is made from: nobody may go on with, or overwrite, the data of something else."""

from pathlib import Path
from typing import Any, cast

from ..commands import PrepareSettings
from .hold_out import Progress
from .json_lines import is_json_lines
from .prepared import sha256

Origin = dict[str, Any]


def describe_origin(settings: PrepareSettings, *, progress: Progress) -> Origin:
    """Return what the data is made from: equal origins make equal data, wherever the files are."""
    files = [*settings.files, *settings.validation]
    total_bytes = sum(path.stat().st_size for path in files)
    done_bytes = 0

    def describe(path: Path) -> dict[str, Any]:
        nonlocal done_bytes
        size = path.stat().st_size
        about = {"name": path.name, "bytes": size, "sha256": sha256(path)}
        done_bytes += size
        progress("check", done_bytes, total_bytes)
        return about

    tokenizer = settings.tokenizer
    return {
        "vocab_size": settings.vocab_size,
        "validation_fraction": settings.validation_fraction,
        "json_field": settings.json_field if any(map(is_json_lines, files)) else None,
        "shard_bytes": settings.shard_bytes,
        "files": [describe(path) for path in settings.files],
        "validation": [describe(path) for path in settings.validation],
        "tokenizer": None if tokenizer is None else describe(tokenizer),
    }


def check_apart(settings: PrepareSettings, origin: Origin) -> None:
    """Check that no file is held out and learned from, nor learned from twice.

    Raises:
        ValueError: naming the file.
    """
    given = [path.resolve() for path in settings.files]
    for path, whole in zip(settings.files, given, strict=True):
        if given.count(whole) > 1:
            raise ValueError(f"files must name each file once, got {path} twice")
    learned = {file["sha256"] for file in origin["files"] if file["bytes"]}
    for path, file in zip(settings.validation, origin["validation"], strict=True):
        if file["sha256"] in learned:
            raise ValueError(f"validation must be other text than files, got {path} in both")


def check_same(out: Path, before: Origin, now: Origin) -> None:
    """Compare what the data in `out` is made from with what it is to be made from.

    What an older version did not write down is taken to be the same.

    Raises:
        ValueError: with the differences.
    """
    differences = [
        _difference(key, value, now.get(key))
        for key, value in before.items()
        if value != now.get(key)
    ]
    if differences:
        raise ValueError(
            f"{out} holds data of other files or settings already: {'; '.join(differences)}; "
            "choose another --out, or remove it"
        )


def _difference(key: str, before: Any, now: Any) -> str:
    named = _names(before), _names(now)
    if named[0] is None or named[1] is None or named[0] != named[1]:
        before, now = (
            value if names is None else ", ".join(names) or "none"
            for names, value in zip(named, (before, now), strict=True)
        )
        verbs = ("were", "are") if key == "files" else ("was", "is")
        return f"{key} {verbs[0]} {before}, {verbs[1]} {now}"
    pairs = zip(named[0], _files(before), _files(now), strict=True)
    return f"{', '.join(name for name, old, new in pairs if old != new)} has changed"


def _names(value: Any) -> list[str] | None:
    """Return the names of files that were described, or None if it is something else."""
    return [str(file["name"]) for file in _files(value)] if isinstance(value, list | dict) else None


def _files(value: Any) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", value if isinstance(value, list) else [value])
