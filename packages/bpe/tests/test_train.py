"""Training end to end, against a trainer that recounts every pair after every merge."""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NoReturn

import pytest
import regex

from scratch.bpe import CL100K, GPT2, _train, train_bpe, train_bpe_from_iterator

EOT = "<|endoftext|>"

Trainer = Callable[[dict[bytes, int], int], list[tuple[bytes, bytes]]]


@pytest.mark.parametrize("pattern", [GPT2, CL100K, r"\w+"], ids=["gpt2", "cl100k", "custom"])
def test_merges_are_those_of_recounting(
    recount_every_time: Trainer, corpus: str, pattern: str
) -> None:
    text = corpus[:20_000]
    vocabulary = train_bpe_from_iterator(
        [text], vocab_size=257 + 60, special_tokens=[EOT], pattern=pattern
    )
    words = Counter(
        match.group().encode()
        for document in text.split(EOT)
        for match in regex.finditer(pattern, document)
    )
    assert list(vocabulary.merges) == recount_every_time(words, 60)


def test_ids_are_bytes_then_merges_then_special_tokens() -> None:
    vocabulary = train_bpe_from_iterator(
        ["ab ab<y>"], vocab_size=300, special_tokens=["<y>", "<x>"]
    )
    tokens = [bytes([byte]) for byte in range(256)] + [b"ab", b" ab", b"<y>", b"<x>"]
    assert vocabulary.tokens == dict(enumerate(tokens))
    assert vocabulary.merges == ((b"a", b"b"), (b" ", b"ab"))
    assert vocabulary.special_tokens == ("<y>", "<x>")
    assert vocabulary.pattern == GPT2


def test_the_vocabulary_has_the_size_asked_for(corpus: str) -> None:
    vocabulary = train_bpe_from_iterator([corpus], vocab_size=400, special_tokens=[EOT])
    assert len(vocabulary.tokens) == len(set(vocabulary.tokens.values())) == 400
    assert list(vocabulary.tokens) == list(range(400))


def test_the_least_size_gives_no_merge() -> None:
    vocabulary = train_bpe_from_iterator(["abab"], vocab_size=257, special_tokens=[EOT])
    assert vocabulary.merges == ()
    assert vocabulary.tokens[256] == EOT.encode()


def test_training_stops_when_the_text_runs_out_of_pairs() -> None:
    assert len(train_bpe_from_iterator(["abc"], vocab_size=10_000).tokens) == 258


@pytest.mark.parametrize("texts", [[], [""], ["a b c"[:1]], [EOT]], ids=repr)
def test_text_without_pairs_gives_no_merge(texts: list[str]) -> None:
    assert train_bpe_from_iterator(texts, vocab_size=300, special_tokens=[EOT]).merges == ()


def test_special_tokens_do_not_count_and_nothing_merges_across_them() -> None:
    vocabulary = train_bpe_from_iterator(
        ["ab<s>cd<s>" * 9], vocab_size=300, special_tokens=["<s>"], pattern="(?s).+"
    )
    assert vocabulary.merges == ((b"c", b"d"), (b"a", b"b"))


def test_overlapping_special_tokens_split_as_in_encoding() -> None:
    # Leftmost-longest: xyz is one special token, and what is left of xyxyz is nothing.
    vocabulary = train_bpe_from_iterator(
        ["xyxyz", "xyzab"], vocab_size=300, special_tokens=["xy", "xyz", "zab"]
    )
    assert vocabulary.merges == ((b"a", b"b"),)


def test_a_named_pattern_is_carried_as_an_expression() -> None:
    vocabulary = train_bpe_from_iterator(["12345"], vocab_size=300, pattern="cl100k")
    assert vocabulary.pattern == CL100K
    assert b"3" + b"4" not in vocabulary.tokens.values()


def test_words_never_reach_across_the_end_of_a_text() -> None:
    assert train_bpe_from_iterator(["ab"], vocab_size=300).merges == ((b"a", b"b"),)
    assert train_bpe_from_iterator(["a", "b"], vocab_size=300).merges == ()


def test_texts_may_come_from_a_generator() -> None:
    assert train_bpe_from_iterator((text for text in ["ab"]), vocab_size=300) == (
        train_bpe_from_iterator(["ab"], vocab_size=300)
    )


@pytest.mark.parametrize("part_bytes", [1, 100, 3000])
@pytest.mark.parametrize("pattern", [GPT2, CL100K, r"\w+ \w+|\s"], ids=["gpt2", "cl100k", "custom"])
def test_the_size_of_parts_changes_nothing(
    corpus: str, pattern: str, part_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "text"
    path.write_bytes(corpus[:5_000].encode())
    options = {"vocab_size": 400, "special_tokens": [EOT], "pattern": pattern}
    expected = train_bpe_from_iterator([corpus[:5_000]], **options)
    monkeypatch.setattr(_train, "_LEAST_PART_BYTES", part_bytes)
    monkeypatch.setattr(_train, "_MOST_PART_BYTES", part_bytes)
    assert train_bpe(path, **options) == expected


@pytest.fixture
def files(tmp_path: Path, corpus: str) -> list[Path]:
    paths = [tmp_path / "one.txt", tmp_path / "two.txt"]
    middle = len(corpus) // 2
    paths[0].write_bytes(corpus[:middle].encode())
    paths[1].write_bytes(corpus[middle:].encode())
    return paths


def test_paths_may_be_one_or_several_strings_or_paths(files: list[Path]) -> None:
    one, both = train_bpe(files[0], vocab_size=300), train_bpe(files, vocab_size=300)
    assert train_bpe(str(files[0]), vocab_size=300) == train_bpe([files[0]], vocab_size=300) == one
    assert train_bpe([str(files[0]), files[1]], vocab_size=300) == both
    assert train_bpe(tuple(files), vocab_size=300) == both
    assert both != one


def test_files_train_as_their_texts_do(files: list[Path]) -> None:
    texts = [path.read_bytes().decode() for path in files]
    options = {"vocab_size": 500, "special_tokens": [EOT]}
    assert train_bpe(files, **options) == train_bpe_from_iterator(texts, **options)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_learns_the_same(
    files: list[Path], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_train, "_LEAST_PART_BYTES", 2000)
    expected = train_bpe(files, vocab_size=500, special_tokens=[EOT])
    assert train_bpe(files, vocab_size=500, special_tokens=[EOT], workers=workers) == expected


def chosen_workers(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    chosen: list[int] = []

    def executor_of(executor: None, workers: int) -> AbstractContextManager[None]:
        chosen.append(workers)
        return nullcontext(executor)

    monkeypatch.setattr(_train, "executor_of", executor_of)
    train_bpe(path, vocab_size=300)
    return chosen[0]


def test_a_small_input_is_counted_in_this_process(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen_workers(files[0], monkeypatch) == 1


def test_a_large_input_is_counted_by_one_worker_a_core(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_train, "_POOL_PAYS_BYTES", 10)
    monkeypatch.setattr(_train, "available_cores", lambda: 5)
    assert chosen_workers(files[0], monkeypatch) == 5


def test_words_never_reach_across_the_end_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    assert train_bpe([tmp_path / "a", tmp_path / "b"], vocab_size=300).merges == ()


def test_line_ends_and_byte_order_marks_stay(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n" * 3)
    merges = train_bpe(tmp_path / "file", vocab_size=300).merges
    assert (b"\r", b"\n") in merges
    assert {left + right for left, right in merges} >= {b"\r\n\r\n", b"\xef\xbb\xbf"}


def test_training_twice_gives_the_same_vocabulary(files: list[Path]) -> None:
    assert train_bpe(files, vocab_size=600) == train_bpe(files, vocab_size=600)


def test_an_empty_file_gives_no_merge(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert train_bpe(tmp_path / "empty", vocab_size=300).merges == ()


def test_a_missing_file_is_an_error(files: list[Path]) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train_bpe([*files, files[0].parent / "nowhere"], vocab_size=300)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train_bpe(files[0].parent / "nowhere", vocab_size=300, workers=1)


@pytest.mark.parametrize("workers", [None, 2])
def test_a_file_that_is_not_utf8_is_named_with_the_offset(
    tmp_path: Path, workers: int | None
) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9 au lait")
    with pytest.raises(ValueError, match="latin must be UTF-8, got byte 0xe9 at byte offset 3"):
        train_bpe(tmp_path / "latin", vocab_size=300, workers=workers)


def test_an_unpaired_surrogate_is_named_with_text_and_index() -> None:
    with pytest.raises(ValueError, match=r"texts\[1\] must not .* got '\\udc80' at index 3"):
        train_bpe_from_iterator(["fine", "abc\udc80"], vocab_size=300)


@pytest.mark.parametrize("text", [b"bytes", None, 5], ids=repr)
def test_a_text_that_is_no_string_is_refused(text: object) -> None:
    with pytest.raises(TypeError, match=r"texts\[1\] must be a string|text must .* string"):
        train_bpe_from_iterator(["fine", text], vocab_size=300)  # type: ignore[list-item]


def test_one_string_is_no_iterable_of_texts() -> None:
    with pytest.raises(TypeError, match=r"texts must be an iterable of strings, .* write \[text\]"):
        train_bpe_from_iterator("low lower", vocab_size=300)


@pytest.mark.parametrize("size", [256, 0, -1])
def test_a_vocabulary_too_small_for_bytes_and_special_tokens_is_refused(size: int) -> None:
    rule = r"vocab_size must be at least 257 \(256 bytes and 1 special tokens\), got"
    with pytest.raises(ValueError, match=f"{rule} {size}"):
        train_bpe_from_iterator(["low"], vocab_size=size, special_tokens=[EOT])


@pytest.mark.parametrize("size", [300.0, "300", True, None], ids=repr)
def test_a_size_that_is_no_whole_number_is_refused(size: object) -> None:
    with pytest.raises(TypeError, match=f"vocab_size must be a whole number, got {size!r}"):
        train_bpe_from_iterator(["low"], vocab_size=size)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("special_tokens", "message"),
    [
        ([""], "special_tokens must not be empty strings"),
        (["<s>", "<s>"], "special_tokens must be distinct, got '<s>' twice"),
        (["a"], "special_tokens must be longer than one byte, got 'a'"),
        (["\n"], r"special_tokens must be longer than one byte, got '\\n'"),
    ],
)
def test_a_bad_special_token_is_refused(special_tokens: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_bpe_from_iterator(["low"], vocab_size=300, special_tokens=special_tokens)


def test_one_character_of_two_bytes_is_a_good_special_token() -> None:
    vocabulary = train_bpe_from_iterator(["a\u00e9b"], vocab_size=300, special_tokens=["\u00e9"])
    assert vocabulary.tokens == dict(enumerate([*(bytes([b]) for b in range(256)), b"\xc3\xa9"]))


@pytest.mark.parametrize("workers", [0, -2])
def test_fewer_than_one_worker_is_refused(files: list[Path], workers: int) -> None:
    with pytest.raises(ValueError, match=f"workers must be .* at least 1, got {workers}"):
        train_bpe(files, vocab_size=300, workers=workers)


@pytest.mark.parametrize("workers", ["2", 2.0, True], ids=repr)
def test_workers_that_are_no_whole_number_are_refused(files: list[Path], workers: object) -> None:
    with pytest.raises(TypeError, match=f"workers must be a whole number.*, got {workers!r}"):
        train_bpe(files, vocab_size=300, workers=workers)  # type: ignore[arg-type]


def test_bad_arguments_are_refused_before_any_file_is_read(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_blocks(path: Path, **rest: object) -> NoReturn:
        raise AssertionError("read too early")

    monkeypatch.setattr(_train, "read_blocks", read_blocks)
    for bad in (
        {"vocab_size": 5},
        {"special_tokens": [""]},
        {"pattern": "("},
        {"workers": 0},
        {"min_frequency": 0},
        {"errors": "ignore"},
    ):
        with pytest.raises(ValueError, match="must"):
            train_bpe(files, **({"vocab_size": 300} | bad))  # type: ignore[arg-type]
