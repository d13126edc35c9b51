"""The files of GPT-2, read and written; what is written, read by other programs."""

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer

from scratch.bpe import Tokenizer, Vocabulary, _gpt2, train_bpe_from_iterator
from scratch.bpe._encode import PlainEncoder
from scratch.bpe._gpt2 import read_gpt2_files, write_gpt2_files
from scratch.bpe._printable import to_printable

BYTES = {byte: bytes([byte]) for byte in range(256)}
MERGES = ((b"a", b"b"), (b" ", b"ab"))
TOKENS = BYTES | {256: b"ab", 257: b" ab"}
SHORT = [b"a", b"b", b" ", b"\xe9", b"ab", b" a", b"b b"]
SPECIALS = ["<|endoftext|>", "<|a b|>", "|><|", "<|endoftext|><|a b|>", "\u4e16"]

# What text may be made of: line ends, spaces of all kinds, contractions, digits, marks.
PIECES = [
    *SPECIALS,
    *("<|", "|>", "\r\n", "\n\n", "\t", " ", "   ", "\u00a0", "\u3000", "\u2028", "\x00"),
    *("'s", "'LL", "don't", "it's", "'", "1", "1234", "\u00bd", "\u0663", ".", "!?", "//", "_"),
    *("the", " the", "The", "camelCase", "e\u0301", "\u0301", "\u00fc", "\u00df", "\u041f\u0440"),
    *("\u4eca\u65e5", "\U0001f600", "\U0001f468\u200d\U0001f469", "\ufeff", "\U0010ffff"),
]


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


def test_a_special_token_of_one_character_stands_for_its_own_bytes(tmp_path: Path) -> None:
    paths = gpt2_files(tmp_path, SPELT | {"\u4e16": 258}, "a b")
    assert read_gpt2_files(*paths, ("\u4e16",))[0] == TOKENS | {258: "\u4e16".encode()}


def test_the_one_character_that_spells_a_byte_stands_for_that_byte(tmp_path: Path) -> None:
    paths = gpt2_files(tmp_path, SPELT, "a b")
    assert read_gpt2_files(*paths, ("\u00e9", "a"))[0] == TOKENS


# Writing them


def write(folder: Path, vocabulary: Vocabulary) -> tuple[Path, Path]:
    paths = folder / "vocab.json", folder / "merges.txt"
    write_gpt2_files(vocabulary, *paths)
    return paths


def test_the_files_are_those_of_gpt2(tmp_path: Path) -> None:
    vocabulary = Vocabulary(TOKENS | {999: b"<a b>"}, MERGES, ("<a b>",))
    vocab_path, merges_path = write(tmp_path, vocabulary)
    assert json.loads(vocab_path.read_bytes()) == SPELT | {"<a b>": 999}
    assert merges_path.read_text(encoding="utf-8") == "#version: 0.2\na b\n\u0120 ab\n"


def test_writing_and_reading_changes_nothing(tmp_path: Path, vocabulary: Vocabulary) -> None:
    tokenizer = Tokenizer.from_files(*write(tmp_path, vocabulary), vocabulary.special_tokens)
    assert tokenizer.vocabulary == vocabulary


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    merges=st.lists(st.tuples(st.sampled_from(SHORT), st.sampled_from(SHORT)), unique=True),
    special_tokens=st.lists(
        st.text(
            st.characters(exclude_categories=["Cs"]) | st.sampled_from("ab \u0120\u00e9"),
            min_size=2,
        ),
        unique=True,
        max_size=4,
    ),
)
def test_what_is_written_reads_back_or_is_refused_for_its_special_tokens(
    tmp_path_factory: pytest.TempPathFactory,
    merges: list[tuple[bytes, bytes]],
    special_tokens: list[str],
) -> None:
    needed = [*BYTES.values(), *SHORT, *(left + right for left, right in merges)]
    tokens = dict.fromkeys([*needed, *map(str.encode, special_tokens)])
    vocabulary = Vocabulary(dict(enumerate(tokens)), tuple(merges), tuple(special_tokens))
    characters = {to_printable(byte) for byte in BYTES.values()}
    folder, refused = tmp_path_factory.mktemp("files"), ""
    try:
        paths = write(folder, vocabulary)
    except ValueError as error:
        refused = str(error)
    if refused:
        assert refused.startswith("special_tokens must not")
        assert any(set(t) <= characters or t.encode() in needed for t in special_tokens)
        assert list(folder.iterdir()) == []
    else:
        assert Tokenizer.from_files(*paths, special_tokens).vocabulary == vocabulary


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": "cl100k"}, r"pattern must be GPT2 in this format, got .*"),
        ({"whole_words": (b"xyz",)}, "whole_words must be empty in this format, got b'xyz'"),
        ({"merges": (*MERGES, MERGES[0])}, r"merges must be distinct .*, got b'a' \+ b'b' twice"),
        ({"tokens": TOKENS | {300: b"ab"}}, "one id to be exchanged, got 256 and 300 for b'ab'"),
        ({"tokens": TOKENS | {2**32 - 1: b"x.y"}}, r"ids must be below 2\*\*32 - 1 .* 4294967295"),
        (
            {"tokens": TOKENS | {300: "<\u00e9>".encode()}, "special_tokens": ("<\u00e9>",)},
            r"special_tokens must not spell other bytes .* '<é>', which spells b'<\\xe9>'",
        ),
        (
            {"special_tokens": (" ab",)},
            "special_tokens must not be tokens of merges .* ' ab': .* both so and '\u0120ab'",
        ),
        ({"special_tokens": (" ",)}, "must not be tokens of merges .*, got ' '"),
        (
            {
                "tokens": TOKENS | {300: b"x y", 301: b"x ya"},
                "merges": ((b"x y", b"a"),),
                "special_tokens": ("x y",),
            },
            "must not be tokens of merges .*, got 'x y'",
        ),
    ],
    ids=lambda value: repr(value)[-30:],
)
def test_what_the_files_cannot_tell_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    fields = {"tokens": TOKENS | {400: b"xyz"}, "merges": MERGES} | changes
    with pytest.raises(ValueError, match=message):
        write(tmp_path, Vocabulary(**fields))
    assert list(tmp_path.iterdir()) == []


def test_one_file_cannot_be_both(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vocab_path and merges_path must be two files, got .*x"):
        write_gpt2_files(Vocabulary(TOKENS, MERGES), tmp_path / "x", tmp_path / "y" / ".." / "x")


def test_a_special_token_may_be_a_token_of_merges_if_it_is_spelt_alike(tmp_path: Path) -> None:
    vocabulary = Vocabulary(TOKENS, MERGES, ("ab", "a"))
    assert Tokenizer.from_files(*write(tmp_path, vocabulary), ["ab", "a"]).vocabulary == vocabulary


def test_what_reads_back_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gpt2, "split_merge", lambda _: (b"a", b"b"))
    with pytest.raises(ValueError, match="would read back with other merges; nothing written"):
        write(tmp_path, Vocabulary(TOKENS, MERGES))
    assert list(tmp_path.iterdir()) == []


def test_what_encodes_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = count()
    monkeypatch.setattr(PlainEncoder, "encode", lambda *_: [next(answers)])
    with pytest.raises(ValueError, match="read back with other ids for a sample; nothing written"):
        write(tmp_path, Vocabulary(TOKENS, MERGES))
    assert list(tmp_path.iterdir()) == []


# Other programs


@pytest.fixture(scope="module")
def programs(
    tmp_path_factory: pytest.TempPathFactory, corpus: str
) -> tuple[Tokenizer, ByteLevelBPETokenizer, Any]:
    from transformers import GPT2Tokenizer  # slow to import

    vocabulary = train_bpe_from_iterator([corpus], vocab_size=900, special_tokens=SPECIALS)
    paths = [str(path) for path in write(tmp_path_factory.mktemp("files"), vocabulary)]
    tokenizers = ByteLevelBPETokenizer.from_file(*paths)
    tokenizers.add_special_tokens(SPECIALS)
    transformers = GPT2Tokenizer(*paths)
    transformers.add_special_tokens({"additional_special_tokens": SPECIALS})
    return Tokenizer.from_vocabulary(vocabulary), tokenizers, transformers


@settings(deadline=None, derandomize=True, max_examples=400)
@given(text=st.lists(st.sampled_from(PIECES)).map("".join))
def test_tokenizers_and_transformers_read_the_same(
    programs: tuple[Tokenizer, ByteLevelBPETokenizer, Any], text: str
) -> None:
    ours, tokenizers, transformers = programs
    ids = ours.encode(text)
    assert tokenizers.encode(text).ids == ids
    assert tokenizers.decode(ids, skip_special_tokens=False) == text
    assert transformers.encode(text) == ids
    assert transformers.decode(ids) == text


def test_they_encode_a_corpus_the_same(
    programs: tuple[Tokenizer, ByteLevelBPETokenizer, Any], corpus: str
) -> None:
    ours, tokenizers, transformers = programs
    ids = ours.encode(corpus)
    assert tokenizers.encode(corpus).ids == ids
    assert transformers.encode(corpus) == ids
