"""Prepared data: a tokenizer, shards of token ids, and a manifest that says what they are.

    manifest.json          what there is, and what it was made from
    tokenizer.json         of the ids
    train-00000.npy ...    shards of token ids, uint16 or uint32
    validation-00000.npy ...

In the stream that the shards of a split make up, each document follows an `<|endoftext|>`; a
document may go on in the next shard. The manifest holds, in version 2,

    format, version, vocab_size, dtype, tokenizer_sha256
    splits: for `train`, and `validation` if there is one:
        documents, tokens
        bytes     of the text in UTF-8, separators not counted
        shards:   file, tokens, bytes (of the file), sha256
    origin: vocab_size, validation_fraction, json_field, shard_bytes;
        files, validation, tokenizer: name, bytes, sha256

It is written last: a directory without one is not finished. Version 1 had one file for each split,
`train.npy` and `validation.npy`, and is still read.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from scratch.bpe import Tokenizer
from scratch.train import Tokens, TokenShards, TokenStream, open_tokens

FORMAT, VERSION = "scratch-data", 2
MANIFEST, TOKENIZER, UNFINISHED = "manifest.json", "tokenizer.json", "unfinished"

_READABLE_VERSIONS = (1, 2)


@dataclass(frozen=True)
class PreparedData:
    """What `trainer prepare` wrote.

    Attributes:
        directory: where it is.
        manifest: its `manifest.json`.
        tokenizer: of the ids.
        train, validation: token ids, memory-mapped; `validation` may be None.
    """

    directory: Path
    manifest: dict[str, Any]
    tokenizer: Tokenizer
    train: TokenStream
    validation: TokenStream | None

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open prepared data, checking that its files belong together; no token is read.

        Raises:
            ValueError: if something is missing or does not fit.
            OSError: if a file is missing or cannot be read.
        """
        path = directory / MANIFEST
        if not path.is_file():
            found = "unfinished data" if (directory / UNFINISHED).is_dir() else f"no {MANIFEST}"
            raise ValueError(
                f"{directory} must hold prepared data, got {found} in it; "
                f"make it with: trainer prepare FILE... --out {directory}"
            )
        manifest = read_manifest(path)
        tokenizer_path = directory / TOKENIZER
        if sha256(tokenizer_path) != manifest["tokenizer_sha256"]:
            raise ValueError(
                f"{tokenizer_path} must be the tokenizer that made the token files, got another; "
                f"put that back, or remove {directory} and prepare it again"
            )
        try:
            splits = {
                name: _open_split(directory, name, split)
                for name, split in manifest["splits"].items()
            }
            train, validation = splits["train"], splits.get("validation")
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} must tell of all token files, got {error!r}") from None
        return cls(directory, manifest, Tokenizer.load(tokenizer_path), train, validation)

    def verify(self) -> None:
        """Read every token file, and compare it with what the manifest says of it.

        Raises:
            ValueError: if one is damaged, naming it.
            OSError: if one cannot be read.
        """
        for split in self.manifest["splits"].values():
            for shard in _shards(split):
                path = self.directory / shard["file"]
                # Version 1 has no hashes: damage shows where it makes an id that is none.
                if "sha256" in shard:
                    intact = sha256(path) == shard["sha256"]
                else:
                    tokens = open_tokens(path)
                    intact = not len(tokens) or tokens.max() < self.manifest["vocab_size"]
                if not intact:
                    raise ValueError(
                        f"{path} must be as it was written, got other bytes: it is damaged; "
                        f"remove {self.directory} and prepare it again"
                    )


def split_documents(tokens: TokenStream, end_of_text: int) -> Iterator[Tokens]:
    """Yield the parts of a token stream that begin at each `<|endoftext|>`."""
    shards = tokens.shards if isinstance(tokens, TokenShards) else (tokens,)
    start, position = None, 0
    for shard in shards:
        places: list[int] = np.flatnonzero(shard == end_of_text).tolist()
        for place in places:
            if start is not None:
                yield tokens[start : position + place]
            start = position + place
        position += len(shard)
    if start is not None:
        yield tokens[start:]


def read_manifest(path: Path) -> dict[str, Any]:
    """Return a manifest of a version that can be read. Raises `ValueError` if it is none."""
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} must be a JSON file: {error}") from None
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != FORMAT  # pyright: ignore[reportUnknownMemberType]
        or manifest.get("version") not in _READABLE_VERSIONS  # pyright: ignore[reportUnknownMemberType]
        or not manifest.keys() >= {"vocab_size", "tokenizer_sha256", "splits", "origin"}
    ):
        raise ValueError(f"{path} must be the manifest of prepared data, version 1 or {VERSION}")
    return cast("dict[str, Any]", manifest)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_split(directory: Path, name: str, split: dict[str, Any]) -> TokenStream:
    opened: list[Tokens] = []
    for shard in _shards(split):
        path = directory / shard["file"]
        tokens = open_tokens(path)
        if len(tokens) != shard["tokens"]:
            raise ValueError(
                f"{path} must hold the {shard['tokens']} tokens of {name}, got {len(tokens)}"
            )
        opened.append(tokens)
    return opened[0] if len(opened) == 1 else TokenShards(opened)


def _shards(split: dict[str, Any]) -> list[dict[str, Any]]:
    return split.get("shards", [split])
