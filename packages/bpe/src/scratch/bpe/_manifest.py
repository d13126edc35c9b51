"""What a folder of shards holds: the manifest, written last, and what it takes to be true."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from os import fspath
from pathlib import Path
from typing import Any, Self

import numpy as np

from ._files import write_atomically
from ._stream import StrPath

FORMAT, VERSION = "scratch-bpe-shards", 1
MANIFEST = "manifest.json"


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
        path = Path(folder) / MANIFEST
        try:
            content = json.loads(path.read_bytes())
            if (content["format"], content["version"]) != (FORMAT, VERSION):
                raise ValueError(f"its format is {content['format']!r}, {content['version']!r}")
            shards = tuple(Shard(**shard) for shard in content["shards"])
            manifest = cls(Path(folder), shards, content["dtype"], content["vocab_size"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{fspath(path)} must be a manifest of {FORMAT} version {VERSION}: {error!r}"
            ) from None
        for shard in manifest.shards:
            try:
                found = num_tokens_of(manifest.folder / shard.file)
            except (OSError, EOFError, ValueError) as error:
                found = repr(error)
            if found != shard.num_tokens:
                raise ValueError(
                    f"{shard.file} must hold {shard.num_tokens} ids, got {found}; "
                    "remove the folder and encode again"
                )
        return manifest

    def save(self) -> None:
        """Write it into its folder."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "dtype": self.dtype,
            "vocab_size": self.vocab_size,
            "num_tokens": self.num_tokens,
            "num_bytes": self.num_bytes,
            "shards": [asdict(shard) for shard in self.shards],
        }
        write_atomically(self.folder / MANIFEST, json.dumps(content, indent=1).encode())


def num_tokens_of(path: Path) -> int:
    return len(np.load(path, mmap_mode="r"))
