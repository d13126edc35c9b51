"""Raw text to data: a tokenizer, token files and a manifest that says what they are.

The manifest is written last. A directory without one is unfinished, and is simply done again.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self, cast

from scratch.bpe import Tokenizer, train_bpe, train_bpe_from_iterator
from scratch.train import Tokens, atomic_write, open_tokens, write_tokens

from .commands import PrepareSettings
from .corpus import END_OF_TEXT, Document, find_documents, hold_out, stream
from .display import say

_FORMAT, _VERSION = "scratch-data", 1
_BLOCK_TOKENS = 2**16


@dataclass(frozen=True)
class PreparedData:
    """What `trainer prepare` wrote.

    Attributes:
        manifest: its `manifest.json`.
        tokenizer: of the ids.
        train, validation: token ids, memory-mapped; `validation` may be None.
    """

    manifest: dict[str, Any]
    tokenizer: Tokenizer
    train: Tokens
    validation: Tokens | None

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open prepared data, checking that its files belong together.

        Raises:
            ValueError: if something is missing or does not fit.
        """
        manifest_path = directory / "manifest.json"
        if not manifest_path.is_file():
            raise ValueError(
                f"{directory} must hold prepared data, got no manifest.json in it; "
                f"make it with: trainer prepare FILE... --out {directory}"
            )
        manifest = _read_manifest(manifest_path)
        tokenizer_path = directory / "tokenizer.json"
        if _sha256(tokenizer_path) != manifest["tokenizer_sha256"]:
            raise ValueError(f"{tokenizer_path} must be the tokenizer that made the token files")
        splits = {name: _open_split(directory, name, entry) for name, entry in _splits(manifest)}
        return cls(
            manifest, Tokenizer.load(tokenizer_path), splits["train"], splits.get("validation")
        )


def prepare(settings: PrepareSettings) -> PreparedData:
    """Make the data directory `settings.out`, unless it holds the very same data already.

    Raises:
        ValueError: if the corpus is empty, a file is not UTF-8, the vocabulary size is too small,
            or the directory holds other data.
        OSError: if a file cannot be read or written.
    """
    documents = find_documents(settings.files)
    if settings.validation:
        train, validation = documents, find_documents(settings.validation)
    else:
        train, validation = hold_out(documents, settings.validation_fraction)
    if not train:
        raise ValueError("files must hold more text than is held out, got nothing left to train on")

    out = settings.out
    origin = _origin(settings)
    manifest_path = out / "manifest.json"
    if manifest_path.exists():
        if _read_manifest(manifest_path)["origin"] != origin:
            raise ValueError(
                f"{out} holds data of other files or settings already; "
                "choose another --out, or remove it"
            )
        say(f"{out} is prepared already")
        return PreparedData.open(out)

    out.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "train.npy", "validation.npy", "manifest.json"):
        for unfinished in out.glob(f".{name}.*.tmp"):  # of a process that was killed
            unfinished.unlink()
    tokenizer = _tokenizer(settings, train)
    tokenizer.save(out / "tokenizer.json")
    splits: dict[str, dict[str, Any]] = {}
    for name, chosen in (("train", train), ("validation", validation)):
        if not chosen:
            continue
        file = f"{name}.npy"
        tokens = write_tokens(
            out / file, _encode(tokenizer, chosen), vocab_size=tokenizer.vocab_size
        )
        num_bytes = sum(document.num_bytes for document in chosen)
        splits[name] = {
            "file": file,
            "tokens": tokens,
            "documents": len(chosen),
            "bytes": num_bytes,
        }
        say(f"{name}: {len(chosen):,} documents, {num_bytes:,} bytes, {tokens:,} tokens")
    manifest = {
        "format": _FORMAT,
        "version": _VERSION,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer_sha256": _sha256(out / "tokenizer.json"),
        "splits": splits,
        "origin": origin,
    }
    with atomic_write(manifest_path) as file:
        file.write(json.dumps(manifest, indent=2).encode())
    return PreparedData.open(out)


def _tokenizer(settings: PrepareSettings, documents: Sequence[Document]) -> Tokenizer:
    if settings.tokenizer is not None:
        tokenizer = Tokenizer.load(settings.tokenizer)
        if END_OF_TEXT not in tokenizer.special_tokens:
            raise ValueError(f"{settings.tokenizer} must have the special token {END_OF_TEXT}")
        return tokenizer
    say(f"training a tokenizer of {settings.vocab_size:,} tokens")
    if settings.validation or settings.validation_fraction == 0:  # whole files, in parallel
        vocabulary = train_bpe(
            settings.files, vocab_size=settings.vocab_size, special_tokens=[END_OF_TEXT]
        )
    else:
        vocabulary = train_bpe_from_iterator(
            ("".join(document.read()) for document in documents),
            vocab_size=settings.vocab_size,
            special_tokens=[END_OF_TEXT],
        )
    if len(vocabulary.tokens) < settings.vocab_size:
        say(f"the text has pairs for no more than {len(vocabulary.tokens):,} tokens")
    return Tokenizer.from_vocabulary(vocabulary)


def _encode(tokenizer: Tokenizer, documents: Sequence[Document]) -> Iterator[list[int]]:
    ids = tokenizer.encode_iterable(stream(documents))
    while block := list(islice(ids, _BLOCK_TOKENS)):
        yield block


def _origin(settings: PrepareSettings) -> dict[str, Any]:
    """Return what the data is made from: equal origins make equal data."""
    return {
        "vocab_size": settings.vocab_size,
        "validation_fraction": settings.validation_fraction,
        "files": [_describe(path) for path in settings.files],
        "validation": [_describe(path) for path in settings.validation],
        "tokenizer": None if settings.tokenizer is None else _describe(settings.tokenizer),
    }


def _describe(path: Path) -> dict[str, Any]:
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} must be a JSON file: {error}") from None
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != _FORMAT  # pyright: ignore[reportUnknownMemberType]
        or manifest.get("version") != _VERSION  # pyright: ignore[reportUnknownMemberType]
        or not manifest.keys() >= {"tokenizer_sha256", "splits", "origin"}
    ):
        raise ValueError(f"{path} must be the manifest of prepared data, version {_VERSION}")
    return cast("dict[str, Any]", manifest)


def _splits(manifest: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list(manifest["splits"].items())


def _open_split(directory: Path, name: str, entry: dict[str, Any]) -> Tokens:
    path = directory / entry["file"]
    tokens = open_tokens(path)
    if len(tokens) != entry["tokens"]:
        raise ValueError(
            f"{path} must hold the {entry['tokens']} tokens of {name}, got {len(tokens)}"
        )
    return tokens
