"""Prepared data: complete, checked when opened, made once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scratch.bpe import Tokenizer
from scratch.trainer import prepare as module
from scratch.trainer.commands import PrepareSettings
from scratch.trainer.prepare import PreparedData, prepare

EOT = "<|endoftext|>"


@pytest.fixture
def copy(data: Path, tmp_path: Path) -> Path:
    """Return a copy of the data, to damage."""
    return shutil.copytree(data, tmp_path / "data")


@pytest.fixture
def settings(corpus: Path, copy: Path) -> PrepareSettings:
    """Return what the copy was made by."""
    return PrepareSettings(files=(corpus,), out=copy, vocab_size=300, validation_fraction=0.1)


def text_of(prepared: PreparedData, name: str) -> str:
    return prepared.tokenizer.decode(getattr(prepared, name).tolist())


def split_text(text: str) -> list[str]:
    return text.split(EOT)[1:]


def change_manifest(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in directory.iterdir()}


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_tokens_are_the_text_and_nothing_else(data: Path, documents: list[str]) -> None:
    prepared = PreparedData.open(data)
    train = split_text(text_of(prepared, "train"))
    validation = split_text(text_of(prepared, "validation"))
    assert sorted(train + validation) == sorted(documents)
    assert train == [document for document in documents if document in train]
    assert 0 < len(validation) < len(train)


def test_the_manifest_says_what_there_is(data: Path, corpus: Path) -> None:
    prepared = PreparedData.open(data)
    manifest = json.loads((data / "manifest.json").read_text())
    assert manifest == prepared.manifest
    assert manifest["vocab_size"] == prepared.tokenizer.vocab_size == 300
    for name in ("train", "validation"):
        texts = split_text(text_of(prepared, name))
        assert manifest["splits"][name] == {
            "file": f"{name}.npy",
            "tokens": len(getattr(prepared, name)),
            "documents": len(texts),
            "bytes": len("".join(texts).encode()),
        }
    assert manifest["origin"]["files"][0]["bytes"] == corpus.stat().st_size
    assert {path.name for path in data.iterdir()} == {
        "manifest.json", "tokenizer.json", "train.npy", "validation.npy",
    }  # fmt: skip


def test_the_vocabulary_is_learned_from_the_training_text_only(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("aaaa bbbb " * 30)
    (tmp_path / "other.txt").write_text("qqqq " * 900)
    prepared = prepare(
        PrepareSettings(
            files=(tmp_path / "train.txt",),
            validation=(tmp_path / "other.txt",),
            out=tmp_path / "data",
            vocab_size=260,
        )
    )
    assert not any(b"qq" in token for token in prepared.tokenizer.vocabulary.tokens.values())
    assert text_of(prepared, "validation") == EOT + "qqqq " * 900
    assert text_of(prepared, "train") == EOT + "aaaa bbbb " * 30


def test_line_ends_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "dos.txt").write_bytes(b"one\r\ntwo\r\n\rthree\n" * 20)
    prepared = prepare(
        PrepareSettings(files=(tmp_path / "dos.txt",), out=tmp_path / "data", vocab_size=260)
    )
    text = split_text(text_of(prepared, "train")) + split_text(text_of(prepared, "validation"))
    assert "".join(text) == "one\r\ntwo\r\n\rthree\n" * 20


def test_all_files_are_used_in_order(tmp_path: Path) -> None:
    files = tuple(tmp_path / f"{name}.txt" for name in "cab")
    for path in files:
        path.write_text(f"text of {path.name}")
    prepared = prepare(
        PrepareSettings(files=files, out=tmp_path / "data", vocab_size=257, validation_fraction=0)
    )
    assert split_text(text_of(prepared, "train")) == [f"text of {path.name}" for path in files]
    assert prepared.validation is None
    assert list(prepared.manifest["splits"]) == ["train"]


def test_a_given_tokenizer_is_used_as_it_is(
    settings: PrepareSettings, data: Path, tmp_path: Path
) -> None:
    tokenizer = data / "tokenizer.json"
    changes = {"tokenizer": tokenizer, "out": tmp_path / "other"}
    prepared = prepare(settings.model_copy(update=changes))
    assert prepared.tokenizer.vocabulary == Tokenizer.load(tokenizer).vocabulary
    np.testing.assert_array_equal(prepared.train, PreparedData.open(data).train)


def test_a_tokenizer_without_the_separator_is_refused(corpus: Path, tmp_path: Path) -> None:
    Tokenizer({byte: bytes([byte]) for byte in range(256)}, []).save(tmp_path / "bytes.json")
    settings = PrepareSettings(
        files=(corpus,), out=tmp_path / "data", tokenizer=tmp_path / "bytes.json"
    )
    with pytest.raises(ValueError, match=r"bytes\.json must have the special token <\|endoftext"):
        prepare(settings)


def test_preparing_again_does_nothing(
    settings: PrepareSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(settings.out)
    prepare(settings)
    assert snapshot(settings.out) == before
    assert capsys.readouterr().err == f"{settings.out} is prepared already\n"


def test_the_same_text_elsewhere_is_the_same_data(
    settings: PrepareSettings, corpus: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copy(corpus, moved)
    before = snapshot(settings.out)
    prepare(settings.model_copy(update={"files": (moved / corpus.name,)}))
    assert snapshot(settings.out) == before


@pytest.mark.parametrize(
    "changes",
    [{"vocab_size": 301}, {"validation_fraction": 0.2}, {"files": "twice"}, {"validation": "same"}],
    ids=lambda changes: next(iter(changes)),
)
def test_other_settings_do_not_overwrite_data(
    settings: PrepareSettings, corpus: Path, changes: dict[str, Any]
) -> None:
    other = {
        key: {"twice": (corpus, corpus), "same": (corpus,)}.get(value, value)
        for key, value in changes.items()
    }
    before = snapshot(settings.out)
    with pytest.raises(ValueError, match="holds data of other files or settings already"):
        prepare(settings.model_copy(update=other))
    assert snapshot(settings.out) == before


def test_changed_text_does_not_overwrite_data(settings: PrepareSettings, tmp_path: Path) -> None:
    changed = tmp_path / settings.files[0].name
    changed.write_bytes(settings.files[0].read_bytes().replace(b"cat", b"cow", 1))
    with pytest.raises(ValueError, match="holds data of other files or settings already"):
        prepare(settings.model_copy(update={"files": (changed,)}))


@pytest.mark.parametrize("next_part", ["_encode", "atomic_write"])
def test_interrupted_work_is_done_again(
    next_part: str, settings: PrepareSettings, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(settings.out)
    with monkeypatch.context() as patch:
        patch.setattr(module, next_part, interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(settings)
    assert (settings.out / "tokenizer.json").exists()
    assert (settings.out / "validation.npy").exists() is (next_part == "atomic_write")
    with pytest.raises(ValueError, match=r"must hold prepared data, got no manifest\.json in it"):
        PreparedData.open(settings.out)

    prepare(settings)
    assert contents(settings.out) == contents(data)


def test_what_was_never_prepared_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"make it with: trainer prepare FILE\.\.\. --out .*none"):
        PreparedData.open(tmp_path / "none")


def test_a_text_that_is_too_short_to_train_on_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("x")
    settings = PrepareSettings(
        files=(tmp_path / "short.txt",), out=tmp_path / "data", validation_fraction=0.5
    )
    with pytest.raises(ValueError, match="got nothing left to train on"):
        prepare(settings)
    assert not settings.out.exists()


def test_an_error_in_the_text_leaves_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"good\n" * 99 + b"\xff")
    settings = PrepareSettings(files=(tmp_path / "bad.txt",), out=tmp_path / "data")
    with pytest.raises(ValueError, match=r"bad\.txt must be UTF-8, .* at byte offset 495"):
        prepare(settings)
    assert not (settings.out / "manifest.json").exists()


def test_another_tokenizer_is_noticed(copy: Path) -> None:
    path = copy / "tokenizer.json"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ValueError, match=r"tokenizer\.json must be the tokenizer that made"):
        PreparedData.open(copy)


@pytest.mark.parametrize("name", ["train", "validation"])
def test_a_cut_token_file_is_noticed(copy: Path, name: str) -> None:
    path = copy / f"{name}.npy"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=rf"{name}\.npy must be a complete \.npy file"):
        PreparedData.open(copy)


def test_a_token_file_of_another_length_is_noticed(copy: Path) -> None:
    path = copy / "validation.npy"
    tokens = np.load(path)
    np.save(path, tokens[:-1])
    message = rf"must hold the {len(tokens)} tokens of validation, got {len(tokens) - 1}"
    with pytest.raises(ValueError, match=message):
        PreparedData.open(copy)


@pytest.mark.parametrize("name", ["tokenizer.json", "train.npy"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        PreparedData.open(copy)


@pytest.mark.parametrize("content", ["", "{", "\xff"])
def test_a_manifest_that_is_not_json_is_refused(copy: Path, content: str) -> None:
    (copy / "manifest.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"manifest\.json must be a JSON file"):
        PreparedData.open(copy)


@pytest.mark.parametrize("change", [{"format": "other"}, {"version": 2}], ids=str)
def test_a_manifest_of_another_kind_is_refused(copy: Path, change: dict[str, object]) -> None:
    change_manifest(copy, lambda manifest: manifest.update(change))
    with pytest.raises(ValueError, match="must be the manifest of prepared data, version 1"):
        PreparedData.open(copy)


@pytest.mark.parametrize("content", ["[]", '{"format": "scratch-data", "version": 1}'])
def test_an_incomplete_manifest_is_refused(copy: Path, content: str) -> None:
    (copy / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        PreparedData.open(copy)


def test_what_a_killed_process_left_behind_is_cleared_away(
    settings: PrepareSettings, data: Path
) -> None:
    (settings.out / "manifest.json").unlink()
    (settings.out / ".train.npy.0123abcd.tmp").write_bytes(b"half of it")
    prepare(settings)
    assert contents(settings.out) == contents(data)
