"""The vocabulary: what it must hold, and its file."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe import CL100K, GPT2, Vocabulary
from scratch.bpe._vocabulary import split_merge

BYTES = {byte: bytes([byte]) for byte in range(256)}
MERGES = ((b"a", b"b"), (b" ", b"ab"))
TOKENS = BYTES | {256: b"ab", 257: b" ab"}
WITH_WHOLE_WORDS = Vocabulary(
    TOKENS | {258: b"xyz", 259: b"\xff\xfe"}, MERGES, whole_words=(b"\xff\xfe", b"xyz")
)


def without(token: bytes) -> dict[int, bytes]:
    return {token_id: other for token_id, other in TOKENS.items() if other != token}


def test_tokens_stand_in_the_order_of_their_ids() -> None:
    backward = dict(reversed(TOKENS.items()))
    assert list(Vocabulary(backward, MERGES).tokens) == list(range(258))
    assert Vocabulary(backward, MERGES) == Vocabulary(TOKENS, MERGES)


def test_a_vocabulary_is_its_own_copy() -> None:
    tokens, merges = dict(TOKENS), list(MERGES)
    vocabulary = Vocabulary(tokens, merges, ["ab"])  # type: ignore[arg-type]
    tokens.clear()
    merges.clear()
    assert vocabulary == Vocabulary(TOKENS, MERGES, ("ab",))


def test_the_pattern_is_resolved_and_gpt2_unless_given() -> None:
    assert Vocabulary(TOKENS, MERGES).pattern == GPT2
    assert Vocabulary(TOKENS, MERGES, pattern="cl100k").pattern == CL100K


def test_ids_may_have_gaps() -> None:
    assert Vocabulary(BYTES | {10_000: b"ab"}, MERGES[:1]).tokens[10_000] == b"ab"


@pytest.mark.parametrize("byte", [0x00, 0x61, 0xFF], ids=hex)
def test_a_missing_byte_is_refused(byte: int) -> None:
    rule = f"tokens must hold all 256 single bytes, got none for {byte:#04x}"
    with pytest.raises(ValueError, match=rule):
        Vocabulary(without(bytes([byte])), ())


def test_a_missing_product_is_refused() -> None:
    rule = r"the product of every merge, got no b' ab' for merge 1, b' ' \+ b'ab'"
    with pytest.raises(ValueError, match=rule):
        Vocabulary(without(b" ab"), MERGES)


def test_a_missing_part_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got no b'ab' for merge 0, b' ' \+ b'ab'"):
        Vocabulary(without(b"ab"), MERGES[1:])


def test_a_missing_special_token_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens must hold every special token, got no '<s>'"):
        Vocabulary(TOKENS, MERGES, ("<s>",))


@pytest.mark.parametrize("merge", [(b"a",), (b"a", b"b", b"c"), ("a", "b"), "ab", 5], ids=repr)
def test_a_merge_that_is_no_pair_of_tokens_is_refused(merge: object) -> None:
    with pytest.raises((TypeError, ValueError), match="merge"):
        Vocabulary(TOKENS, (merge,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        ({"a": b"x"}, TypeError, "ids must be whole numbers, got 'a'"),
        ({1.5: b"x"}, TypeError, "ids must be whole numbers, got 1.5"),
        ({300: "x"}, TypeError, "tokens must be bytes, got 'x' for id 300"),
        ({300: None}, TypeError, "tokens must be bytes, got None for id 300"),
        ({-1: b"x"}, ValueError, "ids must not be negative, got -1"),
        ({300: b""}, ValueError, "tokens must not be empty, got b'' for id 300"),
    ],
    ids=repr,
)
def test_a_bad_id_or_token_is_refused(
    entry: dict[Any, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Vocabulary(TOKENS | entry, MERGES)


def test_a_bad_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="pattern must be one of gpt2, cl100k, o200k or"):
        Vocabulary(TOKENS, MERGES, pattern="(")


def test_there_are_no_whole_words_unless_given() -> None:
    assert Vocabulary(TOKENS, MERGES).whole_words == ()
    assert Vocabulary(TOKENS, MERGES) != WITH_WHOLE_WORDS


def test_whole_words_stand_in_the_order_of_their_ids() -> None:
    assert WITH_WHOLE_WORDS.whole_words == (b"xyz", b"\xff\xfe")
    tokens = WITH_WHOLE_WORDS.tokens
    assert Vocabulary(tokens, MERGES, whole_words=(b"xyz", b"\xff\xfe")) == WITH_WHOLE_WORDS
    listed = Vocabulary(tokens, MERGES, whole_words=[b"xyz", b"\xff\xfe"])  # type: ignore[arg-type]
    assert listed == WITH_WHOLE_WORDS


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (("xyz",), TypeError, "whole_words must be bytes, got 'xyz'"),
        (b"xyz", TypeError, "whole_words must be bytes, got 120"),
        ((b"zyx",), ValueError, "tokens must hold every whole word, got no b'zyx'"),
        ((b"x",), ValueError, "whole_words must be longer than one byte, got b'x'"),
        ((b"<s>",), ValueError, "whole_words must not be special tokens, got b'<s>'"),
        ((b"xyz", b"xyz"), ValueError, "whole_words must be distinct, got b'xyz' twice"),
    ],
    ids=repr,
)
def test_a_bad_whole_word_is_refused(words: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Vocabulary(WITH_WHOLE_WORDS.tokens | {300: b"<s>"}, MERGES, ("<s>",), whole_words=words)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    extra=st.dictionaries(st.integers(300, 10**9), st.binary(min_size=1, max_size=6)),
    special_tokens=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True, max_size=4
    ),
    pattern=st.sampled_from(["gpt2", "o200k", "(?s).+", '"\\\\\n\u20ac|\\w']),
    whole_words=st.sets(st.binary(min_size=2, max_size=6), max_size=4),
)
def test_saving_and_loading_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    extra: dict[int, bytes],
    special_tokens: list[str],
    pattern: str,
    whole_words: set[bytes],
) -> None:
    named = {2 * 10**9 + k: token.encode() for k, token in enumerate(special_tokens)}
    words = tuple(sorted(whole_words.difference(named.values())))
    tokens = TOKENS | extra | named | dict(enumerate(words, start=3 * 10**9))
    vocabulary = Vocabulary(tokens, MERGES, tuple(special_tokens), pattern, words)
    path = tmp_path_factory.mktemp("vocabulary") / "file.json"
    vocabulary.save(path)
    assert Vocabulary.load(path) == vocabulary


def test_a_trained_vocabulary_survives_its_file(tmp_path: Path, vocabulary: Vocabulary) -> None:
    vocabulary.save(str(tmp_path / "file.json"))
    loaded = Vocabulary.load(str(tmp_path / "file.json"))
    assert loaded == vocabulary
    assert list(loaded.tokens) == list(vocabulary.tokens)


def test_the_file_is_versioned_readable_json(tmp_path: Path) -> None:
    Vocabulary(TOKENS | {258: b"<s>"}, MERGES, ("<s>",)).save(tmp_path / "file.json")
    content = json.loads((tmp_path / "file.json").read_bytes())
    assert content["format"] == "scratch-bpe"
    assert content["version"] == 1
    assert content["pattern"] == GPT2
    assert content["special_tokens"] == ["<s>"]
    assert content["tokens"]["257"] == "\u0120ab"
    assert content["merges"] == ["a b", "\u0120 ab"]


def test_a_file_with_whole_words_has_a_version_of_its_own(tmp_path: Path) -> None:
    WITH_WHOLE_WORDS.save(tmp_path / "file.json")
    content = json.loads((tmp_path / "file.json").read_bytes())
    assert content["version"] == 2
    assert content["whole_words"] == ["xyz", "\u00ff\u00fe"]
    assert Vocabulary.load(tmp_path / "file.json") == WITH_WHOLE_WORDS


def test_a_file_without_whole_words_is_what_it_was(edited: Callable[..., Path]) -> None:
    assert "whole_words" not in json.loads(edited().read_bytes())
    with pytest.raises(ValueError, match=r"file\.json must have the key 'whole_words'"):
        Vocabulary.load(edited(version=2))
    assert Vocabulary.load(edited(version=2, whole_words=[])) == Vocabulary.load(edited())


def disk_is_full(file: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Vocabulary(TOKENS, MERGES)
    old.save(tmp_path / "file.json")
    monkeypatch.setattr(os, "fsync", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        Vocabulary(TOKENS, MERGES, pattern="o200k").save(tmp_path / "file.json")
    assert Vocabulary.load(tmp_path / "file.json") == old
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., Path]:
    """Save a good vocabulary, change some keys of its file (`...` removes one), return the path."""

    def edit(**changes: object) -> Path:
        path = tmp_path / "file.json"
        Vocabulary(TOKENS | {258: b"<s>"}, MERGES, ("<s>",)).save(path)
        content = json.loads(path.read_bytes()) | changes
        kept = {key: value for key, value in content.items() if value is not ...}
        path.write_text(json.dumps(kept), encoding="utf-8")
        return path

    return edit


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "file.json must be a JSON file: Expecting value"),
        (b'{"format": "scratch-bpe", "vers', "file.json must be a JSON file: Unterminated"),
        (b"low lower lowest", "file.json must be a JSON file"),
        (b"\x80\x81\x82\x83", "file.json must be a JSON file"),
        (b"[1, 2]", "file.json must hold a JSON object, got list"),
        (b"null", "file.json must hold a JSON object, got NoneType"),
        (b"[" * 100_000, "file.json must be a JSON file"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_what_is_no_json_object_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "file.json").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        Vocabulary.load(tmp_path / "file.json")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    Vocabulary(TOKENS, MERGES).save(path)
    data = path.read_bytes()
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"file\.json must"):
            Vocabulary.load(path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Vocabulary.load(tmp_path / "nowhere")


def test_another_format_is_refused(edited: Callable[..., Path]) -> None:
    rule = "must be a scratch-bpe vocabulary, got format 'other'; files of GPT-2 load with"
    with pytest.raises(ValueError, match=rule):
        Vocabulary.load(edited(format="other"))


def test_a_gpt2_vocabulary_is_pointed_to_its_own_reader(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(ValueError, match=r"got format None; .* load with Tokenizer\.from_files"):
        Vocabulary.load(tmp_path / "vocab.json")


@pytest.mark.parametrize("version", [0, 3, "1", None], ids=repr)
def test_another_version_is_refused(edited: Callable[..., Path], version: object) -> None:
    rule = f"must have version 1 or 2, got {version!r}; a newer scratch-bpe may read it"
    with pytest.raises(ValueError, match=rule):
        Vocabulary.load(edited(version=version))


@pytest.mark.parametrize("key", ["tokens", "merges", "special_tokens", "pattern"])
def test_a_missing_key_is_named(edited: Callable[..., Path], key: str) -> None:
    with pytest.raises(ValueError, match=f"file.json must have the key '{key}'"):
        Vocabulary.load(edited(**{key: ...}))


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": []},
        {"tokens": {"a": "b"}},
        {"tokens": {"0": 5}},
        {"tokens": {"0": "\u4e2d"}},
        {"tokens": {}},
        {"merges": None},
        {"merges": [5]},
        {"merges": ["a"]},
        {"merges": ["a b c"]},
        {"merges": ["a  b"]},
        {"merges": ["q q"]},
        {"special_tokens": [5]},
        {"special_tokens": ["<x>"]},
        {"special_tokens": "ab"},
        {"pattern": "("},
        {"pattern": None},
        {"pattern": []},
        {"version": 2, "whole_words": None},
        {"version": 2, "whole_words": [5]},
        {"version": 2, "whole_words": ["a b"]},
        {"version": 2, "whole_words": ["xyz"]},
    ],
    ids=str,
)
def test_bad_content_is_refused(edited: Callable[..., Path], changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"file\.json is not a good vocabulary: "):
        Vocabulary.load(edited(**changes))


@pytest.mark.parametrize("line", ["", "a", "a ", " b", "a  b", "a b c", "a\tb"], ids=repr)
def test_a_bad_merge_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="a merge must be two tokens with one space between, got"):
        split_merge(line)
