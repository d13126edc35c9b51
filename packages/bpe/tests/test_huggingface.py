"""The `tokenizer.json` of Hugging Face, read and written; what is written, read by its programs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe import (
    CL100K,
    GPT2,
    PATTERNS,
    Tokenizer,
    Vocabulary,
    _huggingface,
    train_bpe_from_iterator,
)
from scratch.bpe._huggingface import read_huggingface, write_huggingface
from scratch.bpe._ranks import merges_from_ranks

BYTES = {byte: bytes([byte]) for byte in range(256)}
MERGES = ((b"a", b"b"), (b" ", b"ab"))
TOKENS = BYTES | {256: b"ab", 257: b" ab"}
SPECIALS = ["<|endoftext|>", "<|a b|>", "|><|", "<|endoftext|><|a b|>", "\u4e16"]

# What text may be made of: line ends, spaces of all kinds, contractions, digits, marks.
PIECES = [
    *SPECIALS,
    *("<|", "|>", "\r\n", "\n\n", "\t", " ", "   ", "\u00a0", "\u3000", "\u2028", "\x00"),
    *("'s", "'LL", "don't", "it's", "'", "1", "1234", "\u00bd", "\u0663", ".", "!?", "//", "_"),
    *("the", " the", "The", "camelCase", "e\u0301", "\u0301", "\u00fc", "\u00df", "\u041f\u0440"),
    *("\u4eca\u65e5", "\U0001f600", "\U0001f468\u200d\U0001f469", "\ufeff", "\U0010ffff"),
]

SPECIAL = Vocabulary(TOKENS | {300: b"<s>", 400: b"<a b>"}, MERGES, ("<a b>", "<s>"))

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., Path]:
    """Write a good vocabulary, let functions change the content of its file, return the path."""

    def edit(*changes: Edit, vocabulary: Vocabulary = SPECIAL) -> Path:
        path = tmp_path / "tokenizer.json"
        write_huggingface(vocabulary, path)
        content = json.loads(path.read_bytes())
        for change in changes:
            change(content)
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return edit


def setting(*keys: str | int, to: object) -> Edit:
    """Return a change that sets the value at a path of keys; `...` removes it."""

    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        if to is ...:
            del content[keys[-1]]
        else:
            content[keys[-1]] = to

    return change


def both_read(path: Path) -> tuple[Vocabulary, tokenizers.Tokenizer]:
    return read_huggingface(path), tokenizers.Tokenizer.from_file(str(path))


# Writing


def test_the_file_is_that_of_tokenizers(tmp_path: Path) -> None:
    write_huggingface(SPECIAL, tmp_path / "file")
    content = json.loads((tmp_path / "file").read_bytes())
    theirs = json.loads(tokenizers.Tokenizer.from_file(str(tmp_path / "file")).to_str())
    content["added_tokens"].sort(key=lambda token: token["id"])
    assert content == theirs
    assert content["model"]["merges"] == [["a", "b"], ["\u0120", "ab"]]
    assert content["model"]["vocab"]["<a b>"] == 400


@pytest.mark.parametrize("pattern", PATTERNS)
def test_writing_and_reading_changes_nothing(
    tmp_path: Path, vocabulary: Vocabulary, pattern: str
) -> None:
    fields = (vocabulary.tokens, vocabulary.merges, vocabulary.special_tokens, pattern)
    write_huggingface(Vocabulary(*fields), str(tmp_path / "file"))
    assert read_huggingface(str(tmp_path / "file")) == Vocabulary(*fields)


WHOLE = Vocabulary(TOKENS | {258: b"xyz", 259: b"u w"}, MERGES, whole_words=(b"xyz", b"u w"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pattern": r"\w+"},
            r"pattern must be a named one \(gpt2, cl100k, .* got '\\\\w\+': of o",
        ),
        ({"whole_words": (b"u w",)}, "hold every token that no merges lead to .*, got no b'xyz'"),
        (
            {"whole_words": (b"xyz", b"u w", b"ab")},
            "whole_words must be tokens that no merges lead to in this format, got b'ab'",
        ),
        ({"merges": (*MERGES, MERGES[0])}, r"merges must be distinct .*, got b'a' \+ b'b' twice"),
        ({"tokens": WHOLE.tokens | {300: b"ab"}}, "must have one id .*, got 256 and 300 for b'ab'"),
        (
            {
                "tokens": WHOLE.tokens | {300: b"\xc3\xa9"},
                "special_tokens": ("\u00e9",),
            },
            r"special_tokens must not spell other bytes .*, got '\u00e9', which spells b'\\xe9'",
        ),
        ({"special_tokens": (" ab",)}, "must not be tokens of merges too .*, got ' ab'"),
    ],
    ids=lambda value: repr(value)[-40:],
)
def test_what_the_file_cannot_tell_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    fields = {name: getattr(WHOLE, name) for name in ("tokens", "merges", "whole_words")}
    with pytest.raises(ValueError, match=message):
        write_huggingface(Vocabulary(**fields | changes), tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_what_reads_back_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_huggingface, "unreached_tokens", lambda *_: [b"ab"])
    monkeypatch.setattr(_huggingface, "check_whole_words", lambda *_: None)
    with pytest.raises(ValueError, match="would read back with other whole_words; nothing written"):
        write_huggingface(WHOLE, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


SHORT = [b"a", b"b", b" ", b"\xc3", b"\xa9", b"ab", b" a", b"aa", b"b b", b"\xc3\xa9"]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    merges=st.lists(st.tuples(st.sampled_from(SHORT), st.sampled_from(SHORT)), unique=True),
    pattern=st.sampled_from(sorted(PATTERNS)),
    texts=st.lists(st.text("ab \u00e9\u00e3", max_size=30), max_size=5),
)
def test_any_merges_mean_the_same_in_tokenizers(
    tmp_path_factory: pytest.TempPathFactory,
    merges: list[tuple[bytes, bytes]],
    pattern: str,
    texts: list[str],
) -> None:
    products = (left + right for left, right in merges)
    tokens = dict(enumerate(dict.fromkeys([*BYTES.values(), b"<s>", *SHORT, *products])))
    path = tmp_path_factory.mktemp("files") / "tokenizer.json"
    write_huggingface(Vocabulary(tokens, tuple(merges), ("<s>",), pattern), path)
    ours, theirs = both_read(path)
    assert ours == Vocabulary(tokens, tuple(merges), ("<s>",), pattern)
    tokenizer = Tokenizer.from_vocabulary(ours)
    for text in [*texts, "<s>".join(texts)]:
        assert theirs.encode(text).ids == tokenizer.encode(text)


# Reading


@pytest.mark.parametrize(
    "change",
    [
        setting("normalizer", to={"type": "Sequence", "normalizers": []}),
        setting("normalizer", to=...),
        setting("post_processor", to={"type": "ByteLevel", "add_prefix_space": True,
                                      "trim_offsets": False, "use_regex": True}),
        setting("model", "merges", to=["a b", "\u0120 ab"]),
        setting("model", "continuing_subword_prefix", to=""),
        setting("model", "end_of_word_suffix", to=""),
        setting("model", "dropout", to=0.0),
        setting("model", "fuse_unk", to=True),
        setting("model", "type", to=...),
        setting("model", "ignore_merges", to=...),
        setting("pre_tokenizer", "use_regex", to=...),
        setting("pre_tokenizer", "trim_offsets", to=False),
        setting("added_tokens", 0, "special", to=False),
        setting("added_tokens", 0, "normalized", to=True),
    ],
)  # fmt: skip
def test_what_changes_nothing_is_read(edited: Callable[..., Path], change: Edit) -> None:
    ours, theirs = both_read(edited(change))
    assert ours == SPECIAL
    for text in ("a ab<s>b<a b>", "ab  ab <s><s> "):
        assert theirs.encode(text).ids == Tokenizer.from_vocabulary(ours).encode(text)


def test_a_sequence_of_byte_level_is_byte_level(edited: Callable[..., Path]) -> None:
    def wrap(content: dict[str, Any]) -> None:
        steps = [content["pre_tokenizer"]]
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}

    ours, theirs = both_read(edited(wrap))
    assert ours.pattern == GPT2
    assert theirs.encode(" ab1").ids == Tokenizer.from_vocabulary(ours).encode(" ab1")


def added(content: str, token_id: int) -> dict[str, Any]:
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    return {"id": token_id, "content": content, "special": True} | flags


def test_added_tokens_that_the_model_lacks_count_on_from_its_size(
    edited: Callable[..., Path],
) -> None:
    tokens = [added("<u>", 258), added("<t>", 259), added("a", 97)]
    path = edited(setting("added_tokens", to=tokens), vocabulary=Vocabulary(TOKENS, MERGES))
    ours, theirs = both_read(path)
    assert ours == Vocabulary(TOKENS | {258: b"<u>", 259: b"<t>"}, MERGES, ("<u>", "<t>", "a"))
    assert theirs.encode("<t>ab<u>").ids == Tokenizer.from_vocabulary(ours).encode("<t>ab<u>")


def test_the_id_that_tokenizers_would_give_is_the_only_one(edited: Callable[..., Path]) -> None:
    tokens = [added("<u>", 259), added("<t>", 258)]
    path = edited(setting("added_tokens", to=tokens), vocabulary=Vocabulary(TOKENS, MERGES))
    with pytest.raises(ValueError, match="id of the added token '<u>' must be 258, got 259: token"):
        read_huggingface(path)
    assert tokenizers.Tokenizer.from_file(str(path)).encode("<u><t>").ids == [258, 259]
    with pytest.raises(ValueError, match="id of the added token '<s>' must be 300, got 301"):
        read_huggingface(edited(setting("added_tokens", 1, "id", to=301)))
    rule = "model.vocab must hold the added token '<t>' or have no gaps in its ids: versions of"
    with pytest.raises(ValueError, match=rule):
        read_huggingface(edited(setting("added_tokens", 0, to=added("<t>", 401))))


def test_without_ignore_merges_a_token_that_is_not_reached_stays_so(
    edited: Callable[..., Path],
) -> None:
    ours, theirs = both_read(edited(setting("model", "ignore_merges", to=False), vocabulary=WHOLE))
    assert ours == Vocabulary(WHOLE.tokens, MERGES)
    assert theirs.encode("xyz").ids == [*b"xyz"]


def test_a_special_token_is_no_whole_word(edited: Callable[..., Path]) -> None:
    tokens = WHOLE.tokens | {300: b"<s>"}
    vocabulary = Vocabulary(tokens, MERGES, ("<s>",), whole_words=WHOLE.whole_words)
    ours, theirs = both_read(edited(vocabulary=vocabulary))
    assert ours == vocabulary
    assert theirs.encode("xyz<s>xyz xyz").ids == [258, 300, 258, *b" xyz"]
    assert Tokenizer.from_vocabulary(ours).encode("xyz<s>xyz xyz") == [258, 300, 258, *b" xyz"]


def test_overlapping_tokens_are_found_from_the_left_if_all_are_normalized_alike(
    edited: Callable[..., Path],
) -> None:
    vocabulary = Vocabulary(TOKENS | {300: b"xy", 301: b"yzz"}, MERGES, ("xy", "yzz"))
    for flag in (False, True):
        changes = [setting("added_tokens", n, "normalized", to=flag) for n in (0, 1)]
        ours, theirs = both_read(edited(*changes, vocabulary=vocabulary))
        assert theirs.encode("xyzz").ids == Tokenizer.from_vocabulary(ours).encode("xyzz")
    for number, first in enumerate(("yzz", "xy")):
        path = edited(setting("added_tokens", number, "normalized", to=True), vocabulary=vocabulary)
        with pytest.raises(ValueError, match=f"all normalized or none, .* looks for '{first}' fir"):
            read_huggingface(path)


SPLIT = ("pre_tokenizer", "pretokenizers", 0)
LAST = ("pre_tokenizer", "pretokenizers", 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting("normalizer", to={"type": "NFC"}), 'normalizer must be null .*"NFC".*: it ch'),
        (setting("truncation", to={"max_length": 5}), "truncation must be null, got .*max_length"),
        (setting("padding", to={"pad_id": 0}), "padding must be null, got .*pad_id"),
        (setting("model", "type", to="WordPiece"), 'model.type must be "BPE", got "WordPiece"'),
        (setting("model", "dropout", to=0.1), "model.dropout must be null or 0, got 0.1"),
        (setting("model", "unk_token", to="<s>"), 'model.unk_token must be null, got "<s>"'),
        (setting("model", "byte_fallback", to=True), "model.byte_fallback must be false, got true"),
        (
            setting("model", "continuing_subword_prefix", to="##"),
            'continuing_subword_prefix must be null or "", got "##"',
        ),
        (setting("model", "end_of_word_suffix", to="</w>"), "end_of_word_suffix must be null or"),
        (setting("model", "vocab", "\u4e2d", to=900), "got '\u4e2d' .* name it in added_tokens if"),
        (setting("model", "vocab", "xx", to=97), "model.vocab must give each id once, got 97"),
        (setting("model", "vocab", "<a\u0120b>", to=7777), "one id .* 400 and 7777 for b'<a b>'"),
        (setting("model", "vocab", "xx", to="97"), "model.vocab must map tokens to ids, got 'xx'"),
        (setting("model", "vocab", "a", to=...), "single bytes, got none for 0x61"),
        (setting("model", "merges", 0, to=["x", "y"]), "got no b'xy' for merge 0"),
        (setting("model", "merges", 1, to=["a", "b"]), r"distinct .* got b'a' \+ b'b' twice"),
        (setting("model", "merges", 0, to=["a", "b", "c"]), "a merge must be two tokens, got"),
        (setting("model", "merges", 0, to=5), "a merge must be two tokens, got 5"),
        (setting("model", "merges", 0, to="a b c"), "a merge must be two tokens with one space"),
        (setting("model", "merges", 0, to="#version x"), "not be a comment, got '#version x'"),
        (setting("post_processor", to={"type": "TemplateProcessing"}), "post_processor must be By"),
        (setting("decoder", to=None), "decoder must be ByteLevel, got None"),
        (setting("decoder", to={"type": "Fuse"}), "decoder must be ByteLevel, got {'type': 'Fuse'"),
        (setting("pre_tokenizer", to=None), "pre_tokenizer must be ByteLevel, or .*, got None"),
        (setting("pre_tokenizer", to={"type": "Metaspace"}), "pre_tokenizer must be .*Metaspace"),
        (setting(*SPLIT, to={"type": "Digits"}), "pre_tokenizer must be ByteLevel, or .*Digits"),
        (setting(*SPLIT, "pattern", to={"String": " "}), "pre_tokenizer must be .* Split by a Reg"),
        (setting(*SPLIT, "pattern", to={"Regex": "."}), "pattern must be a named one .*, got '.'"),
        (setting(*SPLIT, "behavior", to="Removed"), 'behavior .* "Isolated", got "Removed"'),
        (setting(*SPLIT, "invert", to=True), "invert of Split must be false, got true"),
        (setting(*LAST, "add_prefix_space", to=True), "add_prefix_space must be false, got true"),
        (setting(*LAST, "use_regex", to=True), "use_regex must be false, got true: words must be"),
        (setting("added_tokens", 0, "lstrip", to=True), "lstrip of the added token '<a b>' must"),
        (setting("added_tokens", 0, "rstrip", to=True), "rstrip of the added token '<a b>' must"),
        (setting("added_tokens", 0, "single_word", to=True), "single_word of .* false, got true"),
        (setting("added_tokens", 0, "content", to="<s>"), "must be distinct, got '<s>' twice"),
        (setting("added_tokens", 0, "content", to="\u0120ab"), "must not spell other bytes"),
    ],
)  # fmt: skip
def test_what_means_something_else_is_refused(
    edited: Callable[..., Path], change: Edit, message: str
) -> None:
    cl100k = Vocabulary(SPECIAL.tokens, MERGES, SPECIAL.special_tokens, "cl100k")
    path = edited(change, vocabulary=cl100k)
    with pytest.raises(ValueError, match=rf"(?s)tokenizer\.json cannot be read .*: .*{message}"):
        read_huggingface(path)


@pytest.mark.parametrize("key", ["use_regex", "add_prefix_space"])
def test_byte_level_alone_must_cut_words_and_add_nothing(
    edited: Callable[..., Path], key: str
) -> None:
    def flip(content: dict[str, Any]) -> None:
        content["pre_tokenizer"][key] = not content["pre_tokenizer"][key]

    with pytest.raises(ValueError, match=f"cannot be read as a Vocabulary: {key} must be"):
        read_huggingface(edited(flip))


@pytest.mark.parametrize(
    ("key", "name"), [(("model",), "model"), (("model", "vocab"), "vocab"),
                      (("model", "merges"), "merges"), (("added_tokens", 0, "lstrip"), "lstrip")],
)  # fmt: skip
def test_a_missing_key_is_named(edited: Callable[..., Path], key: Any, name: str) -> None:
    with pytest.raises(ValueError, match=rf"tokenizer\.json must have the key '{name}'"):
        read_huggingface(edited(setting(*key, to=...)))


@pytest.mark.parametrize(
    "change",
    [
        setting("model", to=None),
        setting("model", "vocab", to=[["a", 0]]),
        setting("model", "merges", to=None),
        setting("added_tokens", to=None),
        setting("added_tokens", to=[5]),
    ],
)
def test_what_has_other_types_is_refused(edited: Callable[..., Path], change: Edit) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read as a Vocabulary: "):
        read_huggingface(edited(change))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\x80"], ids=repr)
def test_what_is_no_json_object_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ValueError, match=r"file must (be a JSON file|hold a JSON object)"):
        read_huggingface(tmp_path / "file")


# tokenizers and transformers


@pytest.fixture(scope="module", params=PATTERNS)
def programs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, corpus: str
) -> tuple[Tokenizer, tokenizers.Tokenizer, Any]:
    from transformers import PreTrainedTokenizerFast  # slow to import

    vocabulary = train_bpe_from_iterator(
        [corpus], vocab_size=900, special_tokens=SPECIALS, pattern=request.param
    )
    path = tmp_path_factory.mktemp("files") / "tokenizer.json"
    write_huggingface(vocabulary, path)
    return (
        Tokenizer.from_vocabulary(vocabulary),
        tokenizers.Tokenizer.from_file(str(path)),
        PreTrainedTokenizerFast(tokenizer_file=str(path)),
    )


@settings(deadline=None, derandomize=True, max_examples=160)
@given(text=st.lists(st.sampled_from(PIECES)).map("".join))
def test_tokenizers_and_transformers_read_the_same(
    programs: tuple[Tokenizer, tokenizers.Tokenizer, Any], text: str
) -> None:
    ours, theirs, transformers = programs
    ids = ours.encode(text)
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids, skip_special_tokens=False) == text
    assert transformers.encode(text) == ids
    assert transformers.decode(ids) == text


def test_they_encode_a_corpus_the_same(
    programs: tuple[Tokenizer, tokenizers.Tokenizer, Any], corpus: str
) -> None:
    ours, theirs, transformers = programs
    ids = ours.encode(corpus)
    assert theirs.encode(corpus).ids == ids
    assert transformers.encode(corpus) == ids


@settings(deadline=None, derandomize=True, max_examples=80)
@given(ids=st.lists(st.integers(0, 899)))
def test_they_decode_any_ids_the_same(
    programs: tuple[Tokenizer, tokenizers.Tokenizer, Any], ids: list[int]
) -> None:
    ours, theirs, _ = programs
    assert theirs.decode(ids, skip_special_tokens=False) == ours.decode(ids)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    tokens=st.sets(st.text("abc", min_size=2, max_size=6), max_size=16),
    order=st.randoms(use_true_random=False),
    texts=st.lists(st.text("abc ", max_size=30), max_size=5),
)
def test_any_ranks_mean_the_same_in_tiktoken_and_tokenizers(
    tmp_path_factory: pytest.TempPathFactory, tokens: set[str], order: Any, texts: list[str]
) -> None:
    longer = sorted(tokens)
    order.shuffle(longer)
    ranks = {token: rank for rank, token in BYTES.items()}
    ranks |= {token.encode(): rank for rank, token in enumerate(longer, start=256)}
    merges, whole_words = merges_from_ranks(ranks)
    by_id = {rank: token for token, rank in ranks.items()}
    vocabulary = Vocabulary(by_id, tuple(merges), (), CL100K, tuple(whole_words))
    path = tmp_path_factory.mktemp("files") / "tokenizer.json"
    write_huggingface(vocabulary, path)
    ours, theirs = both_read(path)
    assert ours == vocabulary
    tokenizer = Tokenizer.from_vocabulary(ours)
    encoding = tiktoken.Encoding("test", pat_str=CL100K, mergeable_ranks=ranks, special_tokens={})
    for text in [*texts, *longer, " ".join(longer)]:
        assert theirs.encode(text).ids == encoding.encode(text) == tokenizer.encode(text)
