"""Raw text to data: a tokenizer, shards of token ids and a manifest that says what they are.

What is there in the end is told in `prepared`. Until then all is made in a folder of its own, each
part of it under its name only when it is complete:

    unfinished/train.txt, validation.txt    the text, split
    unfinished/plan.json         what it was made from and how much it is: others must not go on
    unfinished/tokenizer.json
    unfinished/train/, validation/          shards, as `Tokenizer.encode_files` makes them
    unfinished/moves.json, manifest.json    from here on, files only move to where they belong

So whoever starts again after a kill finds what is finished, and makes what is missing; the bytes
in the end are those of a preparation that nothing disturbed. While it is made, the text is there
twice.
"""

import errno
import json
import shutil
from collections.abc import Generator
from concurrent.futures import BrokenExecutor, Executor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from scratch.bpe import Tokenizer, train_bpe
from scratch.train import atomic_write, sync_directory, token_dtype

from ..commands import PrepareSettings
from ..watching.display import say
from ..watching.work_progress import WorkProgress
from .cluster import workers_of
from .corpus import END_OF_TEXT, Corpus, find_documents
from .hold_out import Progress, write_texts
from .origin import check_apart, check_same, describe_origin
from .prepared import (
    FORMAT,
    MANIFEST,
    TOKENIZER,
    UNFINISHED,
    VERSION,
    PreparedData,
    read_manifest,
    sha256,
)

__all__ = ["PreparedData", "prepare", "print_prepared"]

_SPLITS = ("train", "validation")
_PLAN, _MOVES = "plan.json", "moves.json"
# The workers of a process that was killed keep its lock for the moment that they live on.
_LOCK_SECONDS = 5.0
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # NFS and Lustre may have none
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def prepare(settings: PrepareSettings, *, executor: Executor | None = None) -> PreparedData:
    """Make the data directory `settings.out`, or what is missing of it.

    The workers of `executor`, or of `settings.cluster`, count the words and encode the shards in
    place of processes of our own; they see the files by the same paths. All else is done here.

    Raises:
        ValueError: if the corpus is empty, a file is given twice or cannot be understood, the
            vocabulary size is too small, the directory holds other data, or it is told twice who
            does the work.
        ImportError: if the cluster takes an extra that is missing.
        OSError: if a file cannot be read or written, or a cluster or its workers are lost.
    """
    _check_workers(settings, executor)
    if settings.cluster is None:
        return _prepare(settings, executor)
    with workers_of(settings.cluster) as executor:
        return _prepare(settings, executor)


def _check_workers(settings: PrepareSettings, executor: Executor | None) -> None:
    told = {
        "workers": settings.workers,
        "cluster": settings.cluster,
        "executor": None if executor is None else type(executor).__name__,
    }
    given = [f"{name}={value}" for name, value in told.items() if value is not None]
    if len(given) > 1:
        raise ValueError(
            f"only one of {', '.join(told)} must say who does the work, got {' and '.join(given)}"
        )


def _prepare(settings: PrepareSettings, executor: Executor | None) -> PreparedData:
    corpus = find_documents(settings.files, json_field=settings.json_field)
    held_out = None
    if settings.validation:
        held_out = find_documents(settings.validation, json_field=settings.json_field)
    if settings.tokenizer is not None:
        _load_tokenizer(settings.tokenizer)  # one that does not fit is told before the work begins
    out = settings.out
    with WorkProgress() as progress, _explained(out):
        origin = describe_origin(settings, progress=progress)
        if _is_prepared(out, origin):
            say(f"{out} is prepared already")
            shutil.rmtree(out / UNFINISHED, ignore_errors=True)  # if it was killed at the very end
            return PreparedData.open(out)
        with _work_folder(out) as work:
            if not _is_prepared(out, origin):  # by another process, until now
                _begin(out, work, settings, corpus, held_out, origin, progress)
                if not (work / MANIFEST).exists():
                    _make(work, settings, executor, progress)
                _publish(work, out)
    return PreparedData.open(out)


def print_prepared(settings: PrepareSettings) -> None:
    data = prepare(settings)
    splits = {
        name: {
            **{key: split[key] for key in ("documents", "bytes", "tokens")},
            "bytes_per_token": split["bytes"] / split["tokens"],
        }
        for name, split in data.manifest["splits"].items()
    }
    if settings.json_output:
        about = {"out": str(settings.out), "vocab_size": data.manifest["vocab_size"]}
        print(json.dumps({**about, **{name: splits.get(name) for name in _SPLITS}}))
        return
    print(f"{settings.out}: a vocabulary of {data.manifest['vocab_size']:,} tokens")
    for name, split in splits.items():
        print(
            f"{name:<10}  {split['documents']:,} documents, {split['bytes']:,} bytes, "
            f"{split['tokens']:,} tokens, {split['bytes_per_token']:.2f} bytes per token"
        )


def _begin(
    out: Path,
    work: Path,
    settings: PrepareSettings,
    corpus: Corpus,
    held_out: Corpus | None,
    origin: dict[str, Any],
    progress: Progress,
) -> None:
    """Split the text and write down what it was made from, or check that this was done."""
    plan = work / _PLAN
    if plan.exists():
        check_same(out, _read_json(plan)["origin"], origin)
        return
    check_apart(settings, origin)
    foreign = [
        path.name
        for pattern in (TOKENIZER, *(f"{name}*.npy" for name in _SPLITS))
        for path in sorted(out.glob(pattern))
    ]
    if foreign:
        raise ValueError(
            f"{out} must not hold files with the names of the data, got {', '.join(foreign)} "
            f"without a {MANIFEST}; choose another --out, or remove them"
        )
    sizes = write_texts(
        corpus, held_out, settings.validation_fraction, *_texts(work), progress=progress
    )
    if not sizes[0].documents:
        raise ValueError(
            "files must hold more text than is held out, got nothing left to train on; "
            "give more text, or hold out less with --validation-fraction"
        )
    texts = dict(zip(_SPLITS, map(asdict, sizes), strict=True))
    _write_json(plan, {"origin": origin, "texts": texts})


def _make(
    work: Path, settings: PrepareSettings, executor: Executor | None, progress: Progress
) -> None:
    """Make all that is missing in the work folder, the manifest last."""
    plan = _read_json(work / _PLAN)
    if not (work / TOKENIZER).exists():
        tokenizer = _make_tokenizer(settings, work / "train.txt", executor, progress)
        tokenizer.save(work / TOKENIZER)
    tokenizer = Tokenizer.load(work / TOKENIZER)
    splits: dict[str, Any] = {}
    moves: dict[str, str] = {TOKENIZER: TOKENIZER}
    for text in _texts(work):
        name = text.stem
        if not plan["texts"][name]["documents"]:
            continue
        encoded = tokenizer.encode_files(
            text.resolve(),  # it is part of the plan that `encode_files` goes on with
            work / name,
            shard_bytes=settings.shard_bytes,
            workers=settings.workers,
            executor=executor,
            progress=progress,
        )
        shards: list[dict[str, Any]] = []
        for number, shard in enumerate(encoded.shards):
            made = encoded.folder / shard.file
            about = {"tokens": shard.num_tokens, "bytes": made.stat().st_size}
            shards.append({"file": f"{name}-{number:05}.npy", **about, "sha256": sha256(made)})
            moves[f"{name}/{shard.file}"] = shards[-1]["file"]
        splits[name] = {**plan["texts"][name], "tokens": encoded.num_tokens, "shards": shards}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "vocab_size": tokenizer.vocab_size,
        "dtype": token_dtype(tokenizer.vocab_size).name,
        "tokenizer_sha256": sha256(work / TOKENIZER),
        "splits": splits,
        "origin": plan["origin"],
    }
    _write_json(work / _MOVES, moves)
    _write_json(work / MANIFEST, manifest)


def _publish(work: Path, out: Path) -> None:
    """Move the files to where they belong, those that a killed process has not moved yet."""
    for made, name in _read_json(work / _MOVES).items():
        if (work / made).exists():
            (work / made).replace(out / name)
    sync_directory(out)
    (work / MANIFEST).replace(out / MANIFEST)
    sync_directory(out)


def _texts(work: Path) -> tuple[Path, Path]:
    return work / "train.txt", work / "validation.txt"


def _make_tokenizer(
    settings: PrepareSettings, text: Path, executor: Executor | None, progress: Progress
) -> Tokenizer:
    if settings.tokenizer is not None:
        return _load_tokenizer(settings.tokenizer)
    say(f"training a tokenizer of {settings.vocab_size:,} tokens")
    vocabulary = train_bpe(
        text,
        vocab_size=settings.vocab_size,
        special_tokens=[END_OF_TEXT],
        workers=settings.workers,
        executor=executor,
        progress=progress,
    )
    if len(vocabulary.tokens) < settings.vocab_size:
        say(f"the text has pairs for no more than {len(vocabulary.tokens):,} tokens")
    return Tokenizer.from_vocabulary(vocabulary)


def _load_tokenizer(path: Path) -> Tokenizer:
    tokenizer = Tokenizer.load(path)
    if END_OF_TEXT not in tokenizer.special_tokens:
        raise ValueError(f"{path} must have the special token {END_OF_TEXT}")
    return tokenizer


def _is_prepared(out: Path, origin: dict[str, Any]) -> bool:
    if not (out / MANIFEST).exists():
        return False
    check_same(out, read_manifest(out / MANIFEST)["origin"], origin)
    return True


@contextmanager
def _work_folder(out: Path) -> Generator[Path]:
    """Give the folder of unfinished work, to one process at a time; leave none without work."""
    work, is_new = out / UNFINISHED, not out.exists()
    if not is_new and not out.is_dir():
        raise ValueError(f"out must be a directory, got the file {out}")
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / ".lock")
    try:
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout:
        raise ValueError(f"{out} is being prepared by another process already") from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        say(f"{out} is on a file system without locks; let no other process prepare it meanwhile")
    try:
        for unfinished in work.glob(".*.tmp"):  # of a process that was killed
            unfinished.unlink()
        yield work
    finally:
        lock.release()
        if (out / MANIFEST).exists() or not (work / _PLAN).exists():
            shutil.rmtree(work, ignore_errors=True)
        if is_new and not any(out.iterdir()):
            out.rmdir()


@contextmanager
def _explained(out: Path) -> Generator[None]:
    """Say what to do about what is not the fault of the text."""
    try:
        yield
    except BrokenExecutor:
        raise ChildProcessError(
            "a worker process ended before its work, perhaps for lack of memory; "
            "the same command goes on, and with fewer --workers it takes less"
        ) from None
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OSError(
            error.errno,
            f"{error.strerror}; make room, and the same command goes on",
            str(error.filename or out),
        ) from None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=2).encode())


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path} must be a JSON file, got a damaged one: {error}; "
            f"remove {path.parent} and begin again"
        ) from None
