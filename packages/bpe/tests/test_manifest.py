"""A manifest: what it says of the shards beside it is so, or it is refused."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scratch.bpe import Shard, ShardManifest, Tokenizer, Vocabulary


@pytest.fixture(scope="module")
def tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    return Tokenizer.from_vocabulary(vocabulary)


@pytest.fixture
def text(tmp_path: Path, corpus: str) -> Path:
    path = tmp_path / "text"
    path.write_bytes(corpus[:6000].encode())
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def ids_of(manifest: ShardManifest) -> list[int]:
    return np.concatenate(list(manifest.arrays())).tolist()


def test_a_manifest_reads_back(tokenizer: Tokenizer, text: Path, out: Path) -> None:
    manifest = tokenizer.encode_files(text, out, shard_bytes=1000)
    for folder in (out, str(out)):
        loaded = ShardManifest.load(folder)
        assert loaded == manifest
        assert isinstance(loaded.shards[0], Shard)
        assert ids_of(loaded) == ids_of(manifest)


def test_shards_are_mapped_from_the_disk(tokenizer: Tokenizer, text: Path, out: Path) -> None:
    tokenizer.encode_files(text, out, shard_bytes=1000)
    assert all(isinstance(array, np.memmap) for array in ShardManifest.load(out).arrays())


def test_a_folder_may_be_moved(tokenizer: Tokenizer, text: Path, out: Path) -> None:
    manifest = tokenizer.encode_files(text, out, shard_bytes=1000)
    out.rename(out.with_name("moved"))
    moved = ShardManifest.load(out.with_name("moved"))
    assert moved.shards == manifest.shards
    assert ids_of(moved) == tokenizer.encode(text.read_bytes().decode())


GOOD_MANIFEST: dict[str, Any] = {
    "format": "scratch-bpe-shards",
    "version": 1,
    "dtype": "uint16",
    "vocab_size": 900,
    "shards": [],
}
BAD_MANIFESTS: dict[str, Any] = {
    "a list": [],
    "foreign": GOOD_MANIFEST | {"format": "other"},
    "newer": GOOD_MANIFEST | {"version": 2},
    "a plan": GOOD_MANIFEST | {"format": "scratch-bpe-shards-plan"},
    "without shards": {key: value for key, value in GOOD_MANIFEST.items() if key != "shards"},
    "without a type": {key: value for key, value in GOOD_MANIFEST.items() if key != "dtype"},
    "strange shards": GOOD_MANIFEST | {"shards": [{"file": "shard-00000.npy"}]},
    "no shards": GOOD_MANIFEST | {"shards": [1]},
}


def test_a_manifest_is_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(GOOD_MANIFEST))
    assert ShardManifest.load(tmp_path) == ShardManifest(tmp_path, (), "uint16", 900)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff{", *(json.dumps(content).encode() for content in BAD_MANIFESTS.values())],
    ids=["empty", "no JSON", *BAD_MANIFESTS],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    where = f"{tmp_path / 'manifest.json'} must be a manifest of scratch-bpe-shards version 1: "
    with pytest.raises(ValueError, match=where):
        ShardManifest.load(tmp_path)


def test_a_folder_that_is_not_finished_has_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        ShardManifest.load(tmp_path)


def shorten(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def overwrite(path: Path) -> None:
    path.write_bytes(b"low lower")


@pytest.mark.parametrize("damage", [Path.unlink, shorten, cut_off, empty, overwrite])
def test_a_shard_that_is_not_what_the_manifest_says_is_refused(
    tokenizer: Tokenizer, text: Path, out: Path, damage: Callable[[Path], None]
) -> None:
    shard = tokenizer.encode_files(text, out, shard_bytes=1000).shards[1]
    damage(out / shard.file)
    with pytest.raises(ValueError, match=f"{shard.file} must hold {shard.num_tokens} ids, got "):
        ShardManifest.load(out)
