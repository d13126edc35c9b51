"""The vocabulary: what it must hold, its file, and the files of GPT-2."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe import CL100K, GPT2, Tokenizer, Vocabulary
from scratch.bpe._printable import to_printable
from scratch.bpe._vocabulary import read_gpt2_files, split_merge

BYTES = {byte: bytes([byte]) for byte in range(256)}
MERGES = ((b"a", b"b"), (b" ", b"ab"))
TOKENS = BYTES | {256: b"ab", 257: b" ab"}


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


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    extra=st.dictionaries(st.integers(300, 10**9), st.binary(min_size=1, max_size=6)),
    special_tokens=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True, max_size=4
    ),
    pattern=st.sampled_from(["gpt2", "o200k", "(?s).+", '"\\\\\n\u20ac|\\w']),
)
def test_saving_and_loading_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    extra: dict[int, bytes],
    special_tokens: list[str],
    pattern: str,
) -> None:
    named = {2 * 10**9 + k: token.encode() for k, token in enumerate(special_tokens)}
    vocabulary = Vocabulary(TOKENS | extra | named, MERGES, tuple(special_tokens), pattern)
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


@pytest.mark.parametrize("version", [2, "1", None], ids=repr)
def test_another_version_is_refused(edited: Callable[..., Path], version: object) -> None:
    with pytest.raises(ValueError, match=f"must have version 1, got {version!r}; a newer scratch-"):
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


# The files of GPT-2


def gpt2_files(folder: Path, vocab: dict[str, Any], merges: str | bytes) -> tuple[Path, Path]:
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_bytes(merges if isinstance(merges, bytes) else merges.encode())
    return folder / "vocab.json", folder / "merges.txt"


SPELT = {to_printable(token): token_id for token_id, token in TOKENS.items()}
LINES = ["#version: 0.2", "a b", "\u0120 ab", ""]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=repr)
@pytest.mark.parametrize("first", [0, 1], ids=["header", "no header"])
@pytest.mark.parametrize("last", [3, 4], ids=["open end", "closed end"])
def test_gpt2_files_are_read(tmp_path: Path, line_end: str, first: int, last: int) -> None:
    paths = gpt2_files(tmp_path, SPELT, line_end.join(LINES[first:last]))
    assert read_gpt2_files(*paths, ()) == (TOKENS, list(MERGES))


def test_a_merge_of_number_signs_is_no_header(tmp_path: Path) -> None:
    paths = gpt2_files(tmp_path, SPELT | {"##": 258}, "# #\na b\n")
    assert read_gpt2_files(*paths, ())[1] == [(b"#", b"#"), (b"a", b"b")]


def test_a_header_is_a_header_on_the_first_line_only(tmp_path: Path) -> None:
    paths = gpt2_files(tmp_path, SPELT, "a b\n#version 1\n")
    assert read_gpt2_files(*paths, ())[1] == [(b"a", b"b"), (b"#version", b"1")]


def test_a_named_special_token_stands_for_its_own_bytes(tmp_path: Path) -> None:
    special = "<|\u7d42 \u308f\u308a|>"
    paths = gpt2_files(tmp_path, SPELT | {special: 258}, "a b")
    tokenizer = Tokenizer.from_files(*paths, special_tokens=[special])
    assert tokenizer.special_tokens == {special: 258}
    assert tokenizer.encode(f"ab{special}") == [256, 258]
    assert tokenizer.decode([258]) == special


def test_an_unnamed_token_outside_the_byte_alphabet_is_refused(tmp_path: Path) -> None:
    paths = gpt2_files(tmp_path, SPELT | {"<|a b|>": 258}, "a b")
    rule = r"vocab.json: a token must be spelt .* in '<\|a b\|>'; name it in special_tokens if it"
    with pytest.raises(ValueError, match=rule):
        Tokenizer.from_files(*paths)


def test_a_special_token_that_the_files_lack_is_appended(tmp_path: Path) -> None:
    paths = gpt2_files(tmp_path, SPELT, "a b")
    tokenizer = Tokenizer.from_files(*paths, special_tokens=["<s>", "<t>"])
    assert tokenizer.special_tokens == {"<s>": 258, "<t>": 259}


def test_gpt2_files_give_the_tokenizer_they_came_from(
    tmp_path: Path, vocabulary: Vocabulary, corpus: str
) -> None:
    spelt = {to_printable(token): token_id for token_id, token in vocabulary.tokens.items()}
    lines = [f"{to_printable(a)} {to_printable(b)}" for a, b in vocabulary.merges]
    paths = gpt2_files(tmp_path, spelt, "\n".join(["#version: 0.2", *lines, ""]))
    names = [str(path) for path in paths]
    tokenizer = Tokenizer.from_files(*names, special_tokens=vocabulary.special_tokens)
    assert tokenizer.vocabulary == vocabulary
    assert tokenizer.encode(corpus) == Tokenizer.from_vocabulary(vocabulary).encode(corpus)


@pytest.mark.parametrize("token_id", ["0", 1.5, True, None], ids=repr)
def test_an_id_that_is_no_whole_number_is_refused(tmp_path: Path, token_id: object) -> None:
    paths = gpt2_files(tmp_path, SPELT | {"x": token_id}, "")
    rule = f"must map tokens to ids, got 'x': {token_id!r}"
    with pytest.raises(ValueError, match=rule):
        read_gpt2_files(*paths, ())


def test_an_id_given_twice_is_refused(tmp_path: Path) -> None:
    paths = gpt2_files(tmp_path, SPELT | {"xy": 97}, "")
    with pytest.raises(ValueError, match=r"vocab\.json must give each id once, got 97 twice"):
        read_gpt2_files(*paths, ())


@pytest.mark.parametrize("line", ["a", "a b c", "a  b", "\u4e2d b"], ids=ascii)
def test_a_bad_line_of_merges_is_named_with_its_number(tmp_path: Path, line: str) -> None:
    paths = gpt2_files(tmp_path, SPELT, f"#version: 0.2\na b\n{line}\n")
    with pytest.raises(ValueError, match=r"merges\.txt, line 3: a (merge|token) must be"):
        read_gpt2_files(*paths, ())


@pytest.mark.parametrize("data", [b"a b\n\xff \xfe\n", b"\xff\xfea\x00 \x00b\x00"], ids=repr)
def test_merges_that_are_not_utf8_are_refused_by_name(tmp_path: Path, data: bytes) -> None:
    paths = gpt2_files(tmp_path, SPELT, data)
    with pytest.raises(ValueError, match=r"merges\.txt must be UTF-8"):
        read_gpt2_files(*paths, ())


def test_a_merge_whose_product_the_vocabulary_lacks_is_refused(tmp_path: Path) -> None:
    paths = gpt2_files(tmp_path, SPELT, "a b\nb a\n")
    with pytest.raises(ValueError, match=r"got no b'ba' for merge 1, b'b' \+ b'a'"):
        Tokenizer.from_files(*paths)


@pytest.mark.parametrize("data", [b"", b"{", b"[]"], ids=repr)
def test_a_vocab_file_that_is_no_json_object_is_refused(tmp_path: Path, data: bytes) -> None:
    paths = gpt2_files(tmp_path, SPELT, "a b")
    paths[0].write_bytes(data)
    with pytest.raises(ValueError, match=r"vocab\.json must (be a JSON file|hold a JSON object)"):
        Tokenizer.from_files(*paths)
