"""Prepared data: checked when it is opened, wherever its borders lie, and read in all versions."""

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.train import TokenShards, window_batch
from scratch.trainer.commands import PrepareSettings
from scratch.trainer.data.prepare import prepare
from scratch.trainer.data.prepared import PreparedData, split_documents

ANY = settings(deadline=None, derandomize=True)


@pytest.fixture
def copy(data: Path, tmp_path: Path) -> Path:
    """Return a copy of the data, to damage."""
    return shutil.copytree(data, tmp_path / "data")


def change_manifest(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def make_version_1(directory: Path) -> None:
    """Make of the data what an older version would have left: one file for each split."""
    prepared = PreparedData.open(directory)

    def change(manifest: dict[str, Any]) -> None:
        manifest["version"] = 1
        del manifest["dtype"], manifest["origin"]["json_field"], manifest["origin"]["shard_bytes"]
        for name, split in manifest["splits"].items():
            for shard in split.pop("shards"):
                (directory / shard["file"]).unlink()
            split["file"] = f"{name}.npy"

    train, validation = np.array(prepared.train), np.array(prepared.validation)
    change_manifest(directory, change)
    np.save(directory / "train.npy", train)
    np.save(directory / "validation.npy", validation)


@pytest.fixture(scope="module")
def sharded(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same data in many shards."""
    out = tmp_path_factory.mktemp("sharded") / "data"
    prepare(
        PrepareSettings(
            files=(corpus,), out=out, vocab_size=300, validation_fraction=0.1, shard_bytes=500
        )
    )
    return out


def test_shards_are_one_stream(sharded: Path, data: Path) -> None:
    prepared, whole = PreparedData.open(sharded), PreparedData.open(data)
    assert isinstance(prepared.train, TokenShards)
    assert len(prepared.train.shards) == len(prepared.manifest["splits"]["train"]["shards"]) > 5
    assert isinstance(whole.train, np.ndarray)
    np.testing.assert_array_equal(prepared.train, whole.train)
    np.testing.assert_array_equal(prepared.validation, whole.validation)
    border = len(prepared.train.shards[0])
    batch, expected = (window_batch(d.train, [border - 3], 6) for d in (prepared, whole))
    assert batch.inputs.tolist() == expected.inputs.tolist()


@ANY
@given(
    tokens=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=4),
)
def test_documents_are_found_whatever_shards_they_lie_in(
    tokens: list[int], cuts: list[int]
) -> None:
    whole = np.array(tokens, np.uint16)
    borders = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    shards = TokenShards([whole[start:stop] for start, stop in pairwise(borders)])
    starts = np.flatnonzero(whole == 0)
    stops = [*starts[1:], len(whole)]
    expected = [whole[start:stop].tolist() for start, stop in zip(starts, stops, strict=False)]
    for stream in (whole, shards):
        assert [part.tolist() for part in split_documents(stream, 0)] == expected


def test_documents_of_the_data_are_the_texts(sharded: Path, documents: list[str]) -> None:
    prepared = PreparedData.open(sharded)
    end_of_text = prepared.tokenizer.special_tokens["<|endoftext|>"]
    assert prepared.validation is not None
    found = [
        prepared.tokenizer.decode(part[1:])
        for stream in (prepared.train, prepared.validation)
        for part in split_documents(stream, end_of_text)
    ]
    assert sorted(found) == sorted(documents)


def test_data_of_version_1_is_still_read(copy: Path, data: Path) -> None:
    make_version_1(copy)
    old, new = PreparedData.open(copy), PreparedData.open(data)
    np.testing.assert_array_equal(old.train, new.train)
    np.testing.assert_array_equal(old.validation, new.validation)
    assert old.manifest["version"] == 1
    old.verify()
    np.save(copy / "train.npy", np.full_like(old.train, 300))
    with pytest.raises(ValueError, match=r"train\.npy must be as it was written.*damaged"):
        PreparedData.open(copy).verify()


def test_data_of_version_1_is_not_prepared_again(
    copy: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_version_1(copy)
    options = {"files": (corpus,), "out": copy, "validation_fraction": 0.1}
    prepare(PrepareSettings(**options, vocab_size=300))
    assert capsys.readouterr().err == f"{copy} is prepared already\n"
    with pytest.raises(ValueError, match="vocab_size was 300, is 301"):
        prepare(PrepareSettings(**options, vocab_size=301))


def test_intact_data_passes_and_any_changed_byte_is_found(sharded: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(sharded, tmp_path / "damaged")
    PreparedData.open(damaged).verify()
    path = damaged / "train-00003.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    prepared = PreparedData.open(damaged)  # which looks at lengths only
    with pytest.raises(ValueError, match=r"train-00003\.npy must be .* it is damaged; remove"):
        prepared.verify()


def test_opening_reads_no_tokens(copy: Path) -> None:
    path = copy / "train-00000.npy"
    size = 2**40  # of which nothing is there
    tokens = (size - 128) // 2
    header = path.read_bytes()[:128]
    shape = f"({tokens},)".encode()
    start = header.index(b"(")
    rest = b"), }".join(header.split(b"), }")[1:])
    path.write_bytes((header[:start] + shape + b", }" + rest).ljust(127)[:127] + b"\n")
    with path.open("ab") as file:
        file.truncate(size)

    def change(manifest: dict[str, Any]) -> None:
        manifest["splits"]["train"]["shards"][0]["tokens"] = tokens

    change_manifest(copy, change)
    assert len(PreparedData.open(copy).train) == tokens


def test_what_was_never_prepared_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"make it with: trainer prepare FILE\.\.\. --out .*none"):
        PreparedData.open(tmp_path / "none")


def test_unfinished_data_is_told_as_such(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    (copy / "unfinished").mkdir()
    with pytest.raises(ValueError, match="must hold prepared data, got unfinished data in it"):
        PreparedData.open(copy)


def test_another_tokenizer_is_noticed(copy: Path) -> None:
    path = copy / "tokenizer.json"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ValueError, match=r"tokenizer\.json must be the tokenizer .* got another"):
        PreparedData.open(copy)


@pytest.mark.parametrize("name", ["train", "validation"])
def test_a_cut_token_file_is_noticed(copy: Path, name: str) -> None:
    path = copy / f"{name}-00000.npy"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=rf"{name}-00000\.npy must be a complete \.npy file"):
        PreparedData.open(copy)


def test_a_token_file_of_another_length_is_noticed(copy: Path) -> None:
    path = copy / "validation-00000.npy"
    tokens = np.load(path)
    np.save(path, tokens[:-1])
    message = rf"must hold the {len(tokens)} tokens of validation, got {len(tokens) - 1}"
    with pytest.raises(ValueError, match=message):
        PreparedData.open(copy)


@pytest.mark.parametrize("name", ["tokenizer.json", "train-00000.npy"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        PreparedData.open(copy)


@pytest.mark.parametrize("content", ["", "{", "\xff"])
def test_a_manifest_that_is_not_json_is_refused(copy: Path, content: str) -> None:
    (copy / "manifest.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"manifest\.json must be a JSON file"):
        PreparedData.open(copy)


@pytest.mark.parametrize("change", [{"format": "other"}, {"version": 3}, {"version": "2"}], ids=str)
def test_a_manifest_of_another_kind_is_refused(copy: Path, change: dict[str, object]) -> None:
    change_manifest(copy, lambda manifest: manifest.update(change))
    with pytest.raises(ValueError, match="must be the manifest of prepared data, version 1 or 2"):
        PreparedData.open(copy)


@pytest.mark.parametrize(
    "content", ["[]", '{"format": "scratch-data", "version": 2}', '{"splits": 3}']
)
def test_an_incomplete_manifest_is_refused(copy: Path, content: str) -> None:
    (copy / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        PreparedData.open(copy)


@pytest.mark.parametrize(
    "splits",
    [{}, {"train": {}}, {"train": {"shards": [{"file": 3}]}}, [], {"train": None}],
    ids=str,
)
def test_a_manifest_without_its_files_is_refused(copy: Path, splits: object) -> None:
    change_manifest(copy, lambda manifest: manifest.update(splits=splits))
    with pytest.raises(ValueError, match=r"manifest\.json must tell of all token files, got"):
        PreparedData.open(copy)
