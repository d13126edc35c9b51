"""Scores: every token once, as a loop over single tokens finds them."""

import gzip
import json
import lzma
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard

from scratch.nn import TransformerLM
from scratch.train import TokenShards
from scratch.trainer.commands import EvaluateSettings, PrepareSettings
from scratch.trainer.config import ModelSettings
from scratch.trainer.data.corpus import find_documents
from scratch.trainer.data.prepare import prepare
from scratch.trainer.data.prepared import PreparedData, split_documents
from scratch.trainer.runs.run import RunDirectory, build_model
from scratch.trainer.using import score as module
from scratch.trainer.using.score import (
    encode_documents,
    evaluate_documents,
    evaluate_tokens,
    print_score,
    score,
)

VOCAB, CONTEXT = 40, 8


@pytest.fixture(scope="module")
def model() -> TransformerLM:
    torch.manual_seed(3)
    settings = ModelSettings(context_length=CONTEXT, d_model=16, num_layers=2, num_heads=2)
    return build_model(settings, vocab_size=VOCAB).double()


def sequences(*lengths: int) -> list[np.ndarray]:
    chance = np.random.default_rng(5)
    return [chance.integers(0, VOCAB, length).astype(np.uint16) for length in lengths]


@torch.no_grad()
def nats_of_token(model: TransformerLM, tokens: np.ndarray, index: int, start: int) -> float:
    """Return the surprise at one token after the ones from `start` on."""
    context = torch.tensor(tokens[start:index].astype(np.int64))
    probabilities = torch.softmax(model(context)[-1], dim=-1)
    return -math.log(probabilities[int(tokens[index])])


def test_documents_within_the_context_are_scored_token_by_token(model: TransformerLM) -> None:
    documents = sequences(2, 5, CONTEXT, CONTEXT + 1)
    expected = [
        nats_of_token(model, document, index, start=0)
        for document in documents
        for index in range(1, len(document))
    ]
    found = evaluate_documents(model, documents, batch_size=3)
    assert found.tokens == len(expected)
    assert found.nats == pytest.approx(sum(expected), rel=1e-12)


def test_longer_documents_slide_by_half_a_context(model: TransformerLM) -> None:
    (document,) = sequences(31)
    starts = [0] * CONTEXT
    while len(starts) < len(document) - 1:
        starts += [len(starts) + CONTEXT // 2 - CONTEXT] * (CONTEXT // 2)
    starts = starts[: len(document) - 1]
    last = (len(document) - 1 - CONTEXT) % (CONTEXT // 2)
    starts[-last:] = [len(document) - 1 - CONTEXT] * last  # the last window ends with the text
    expected = [
        nats_of_token(model, document, index, start) for index, start in enumerate(starts, start=1)
    ]
    found = evaluate_documents(model, [document], batch_size=2)
    assert found.tokens == len(expected) == 30
    assert found.nats == pytest.approx(sum(expected), rel=1e-12)


def test_a_stream_is_scored_in_windows_side_by_side(model: TransformerLM) -> None:
    (stream,) = sequences(3 * CONTEXT + 1)
    expected = [
        nats_of_token(model, stream, index, start=(index - 1) // CONTEXT * CONTEXT)
        for index in range(1, len(stream))
    ]
    found = evaluate_tokens(model, stream)
    assert found.tokens == len(expected)
    assert found.nats == pytest.approx(sum(expected), rel=1e-12)


@pytest.mark.parametrize("batch_size", [2, 7, 64])
def test_the_batch_size_does_not_matter(model: TransformerLM, batch_size: int) -> None:
    documents = sequences(2, 3, 50, 9, 8, 31, 3)
    one_by_one = evaluate_documents(model, documents, batch_size=1)
    together = evaluate_documents(model, documents, batch_size=batch_size)
    assert together.tokens == one_by_one.tokens == sum(map(len, documents)) - len(documents)
    assert together.nats == pytest.approx(one_by_one.nats, rel=1e-12)


def test_shards_score_as_one_stream(model: TransformerLM) -> None:
    (tokens,) = sequences(50)
    shards = TokenShards([tokens[:7], tokens[7:8], tokens[8:]])
    assert evaluate_tokens(model, shards) == evaluate_tokens(model, tokens)
    documents = list(split_documents(shards, end_of_text=int(tokens[5])))
    found = evaluate_documents(model, documents, batch_size=4)
    whole = split_documents(tokens, end_of_text=int(tokens[5]))
    assert found == evaluate_documents(model, whole, batch_size=4)
    assert found.tokens == sum(map(len, documents)) - len(documents)


def test_files_and_prepared_tokens_make_the_same_documents(data: Path, corpus: Path) -> None:
    prepared = PreparedData.open(data)
    end_of_text = prepared.tokenizer.special_tokens["<|endoftext|>"]
    encoded = list(encode_documents(prepared.tokenizer, find_documents([corpus])))
    for name in ("train", "validation"):
        for part in split_documents(getattr(prepared, name), end_of_text):
            assert any(np.array_equal(part, document) for document in encoded)


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that receives every token that is scored."""
    scored: list[int] = []
    evaluation_batches = module.evaluation_batches

    def watched(*arguments: object, **options: object) -> Iterator[object]:
        for batch in evaluation_batches(*arguments, **options):
            scored.extend(batch.targets.flatten().tolist())
            yield batch

    monkeypatch.setattr(module, "evaluation_batches", watched)
    return scored


def test_every_held_out_token_is_scored_but_no_separator(
    unbroken: Path, data: Path, targets: list[int]
) -> None:
    result = score(EvaluateSettings(run=unbroken))
    prepared = PreparedData.open(data)
    end_of_text = prepared.tokenizer.special_tokens["<|endoftext|>"]
    assert prepared.validation is not None
    ordinary = [token for token in prepared.validation.tolist() if token != end_of_text]
    assert sorted(targets) == sorted(ordinary)
    assert result.tokens == len(ordinary)
    assert result.bytes == len(prepared.tokenizer.decode_bytes(ordinary))


def check_consistent(result: module.Score) -> None:
    assert result.seconds > 0
    assert result.perplexity == pytest.approx(math.exp(result.loss), rel=1e-12)
    nats = result.loss * result.tokens
    assert result.bits_per_byte == pytest.approx(nats / math.log(2) / result.bytes, rel=1e-12)


def test_the_held_out_text_scores_the_same_as_a_file(
    unbroken: Path, data: Path, tmp_path: Path
) -> None:
    held_out = score(EvaluateSettings(run=unbroken))
    prepared = PreparedData.open(data)
    assert prepared.validation is not None
    path = tmp_path / "held-out.txt"
    path.write_bytes(prepared.tokenizer.decode_bytes(prepared.validation.tolist()))
    assert score(EvaluateSettings(run=unbroken, files=(path,))) == held_out
    check_consistent(held_out)


def test_several_files_score_as_one_with_separators(unbroken: Path, tmp_path: Path) -> None:
    paths = tuple(tmp_path / f"{number}.txt" for number in range(3))
    texts = ["the cat", "a small house.\n" * 9, "漢字 🙃"]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    joined = tmp_path / "joined.txt"
    joined.write_text("<|endoftext|>".join(texts), encoding="utf-8")
    result = score(EvaluateSettings(run=unbroken, files=paths))
    assert result == score(EvaluateSettings(run=unbroken, files=(joined,)))
    assert result.bytes == len("".join(texts).encode())
    check_consistent(result)


def test_a_checkpoint_is_enough_to_score(stopped: Path, unbroken: Path) -> None:
    assert score(EvaluateSettings(run=stopped)) != score(EvaluateSettings(run=unbroken))


def test_a_run_without_held_out_text_asks_for_a_file(
    finished: Path, data: Path, corpus: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(data, tmp_path / "data")
    manifest = json.loads((other / "manifest.json").read_text())
    del manifest["splits"]["validation"]
    (other / "manifest.json").write_text(json.dumps(manifest))
    use_data(finished, other)
    with pytest.raises(ValueError, match="data holds no held-out text; name a file to score"):
        score(EvaluateSettings(run=finished))
    assert score(EvaluateSettings(run=finished, files=(corpus,))).tokens > 1000


def use_data(run: Path, data: Path) -> None:
    """Point a run to other data, as if the user had moved things about."""
    config = run / "config.toml"
    before = RunDirectory(run).settings().data
    config.write_text(config.read_text().replace(str(before), str(data)))


def test_data_with_another_tokenizer_is_refused(
    finished: Path, corpus: Path, tmp_path: Path
) -> None:
    other = tmp_path / "data"
    prepare(PrepareSettings(files=(corpus,), out=other, vocab_size=290))
    use_data(finished, other)
    with pytest.raises(ValueError, match=r"data must have the tokenizer of .*run"):
        score(EvaluateSettings(run=finished))


@pytest.mark.parametrize("batch_size", [1, 5, 1000])
def test_the_score_of_a_run_does_not_depend_on_the_batch_size(
    unbroken: Path, batch_size: int
) -> None:
    usual = score(EvaluateSettings(run=unbroken))
    other = score(EvaluateSettings(run=unbroken, batch_size=batch_size))
    assert (other.tokens, other.bytes) == (usual.tokens, usual.bytes)
    assert other.loss == pytest.approx(usual.loss, rel=1e-6)  # sums of float32 means


# --- next to compressors


def test_compressors_get_the_very_bytes_that_are_scored(unbroken: Path, tmp_path: Path) -> None:
    words = np.random.default_rng(0).choice(["the", "cat", "dog", "sat", "naïve"], 3000)
    texts = [" ".join(words), "the cat", "漢字 🙃"]
    path = tmp_path / "text.txt"
    path.write_text("<|endoftext|>".join(texts), encoding="utf-8")
    result = score(EvaluateSettings(run=unbroken, files=(path,)))
    text = "".join(texts).encode()
    assert result.bytes == len(text)
    assert result.gzip_bits_per_byte == 8 * len(gzip.compress(text, 9)) / len(text)
    assert len(gzip.compress(text, 9)) != len(gzip.compress(text, 6))
    assert result.xz_bits_per_byte == 8 * len(lzma.compress(text, preset=9)) / len(text)


def test_the_json_tells_all_and_the_lines_what_matters(
    unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = score(EvaluateSettings(run=unbroken))
    print_score(EvaluateSettings(run=unbroken, json_output=True))
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    speed, seconds = found.pop("tokens_per_second"), found.pop("seconds")
    assert speed == pytest.approx(result.tokens / seconds)
    assert module.Score(**found, seconds=0) == result
    print_score(EvaluateSettings(run=unbroken))
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith(f"held-out text: {result.bytes:,} bytes, {result.tokens:,} tokens, ")
    assert lines == [
        f"loss           {result.loss:.4f} nats per token",
        f"perplexity     {result.perplexity:.2f}",
        f"bits per byte  {result.bits_per_byte:.4f}",
        f"       xz -9   {result.xz_bits_per_byte:.4f}",
        f"     gzip -9   {result.gzip_bits_per_byte:.4f}",
    ]


# --- files of all kinds


def test_compressed_files_and_json_lines_score_as_their_text(
    unbroken: Path, tmp_path: Path
) -> None:
    texts = ["the cat sat\n", "漢字 🙃 by a small house"]
    text = "<|endoftext|>".join(texts).encode()
    lines = "".join(json.dumps({"body": each}) + "\n" for each in texts).encode()
    files = {
        "text.txt": text,
        "text.txt.gz": gzip.compress(text),
        "text.zst": zstandard.compress(text),
        "lines.jsonl": lines,
        "lines.jsonl.gz": gzip.compress(lines),
    }
    scores: set[tuple[float, int]] = set()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        choices = EvaluateSettings(run=unbroken, files=(tmp_path / name,), json_field="body")
        result = score(choices)
        scores.add((result.loss, result.bytes))
    assert len(scores) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"files must hold some text, got none in .*file\.txt"),
        (b"<|endoftext|>" * 3, r"files must hold some text, got none in .*file\.txt"),
        (b"ab\x89PNG", r"file\.txt must be UTF-8, got byte 0x89 at byte offset 2"),
        (gzip.compress(b"the cat")[:-3], r"file\.txt must be a whole gzip file"),
        (lzma.compress(b"the cat"), r"file\.txt must be UTF-8, got byte 0xfd at byte offset 0"),
    ],
    ids=["empty", "separators", "png", "torn gzip", "xz"],
)
def test_files_without_text_are_refused_by_name(
    unbroken: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        score(EvaluateSettings(run=unbroken, files=(path,)))


# --- where the data is, and which weights


def test_data_that_has_moved_is_found_by_its_flag(
    finished: Path, data: Path, unbroken: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(data, tmp_path / "moved")
    use_data(finished, tmp_path / "gone")
    message = r"gone must hold the prepared data of .*run, got no manifest\.json .* with --data, or"
    with pytest.raises(ValueError, match=message):
        score(EvaluateSettings(run=finished))
    found = score(EvaluateSettings(run=finished, data=moved))
    assert found == score(EvaluateSettings(run=unbroken))


def test_a_wrong_directory_of_data_is_refused(unbroken: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold prepared data, got no manifest\.json in it"):
        score(EvaluateSettings(run=unbroken, data=tmp_path))


def test_text_from_two_places_is_refused(unbroken: Path, data: Path, corpus: Path) -> None:
    with pytest.raises(ValueError, match="the text must come from files or from --data, got both"):
        score(EvaluateSettings(run=unbroken, data=data, files=(corpus,)))


def test_each_checkpoint_has_its_own_score(unbroken: Path) -> None:
    final, latest, early = (
        score(EvaluateSettings(run=unbroken, checkpoint=checkpoint))
        for checkpoint in ("final", "latest", 4)
    )
    assert final == latest
    assert early.loss > final.loss


def test_what_is_no_run_is_told_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be the directory of a run, got no config\.toml"):
        score(EvaluateSettings(run=tmp_path, files=(tmp_path / "none.txt",)))
