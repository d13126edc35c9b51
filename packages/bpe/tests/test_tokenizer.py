"""Text to ids and back: tiktoken's ids, any chunking, nothing lost."""

import copy
import doctest
import pickle
import threading
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import GeneratorType

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe import (
    CL100K,
    GPT2,
    O200K,
    PATTERNS,
    Tokenizer,
    Vocabulary,
    _short_texts,
    _tokenizer,
)
from scratch.bpe import train_bpe_from_iterator as train

EOT = "<|endoftext|>"
BYTES = {byte: bytes([byte]) for byte in range(256)}
MERGES = [(b"l", b"o"), (b"lo", b"w"), (b" ", b"low"), (b"e", b"r")]
VOCAB = BYTES | {256: b"lo", 257: b"low", 258: b" low", 259: b"er"}

NASTY = " \t\r\n\u00a0\u3000\u0085\u001c'sStlLaA1\u00b2!./_<|>\u0301\U0001f600\u017f\u4e2d"
WORDS = [
    "The old",
    " miller's",
    " WE'LL",
    "camelCase",
    " 12345",
    EOT,
    "\r\n\r\n",
    "   ",
    "\u4eca\u65e5",
]
ANY_TEXT = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
    | st.text(NASTY, max_size=60)
    | st.lists(st.sampled_from(WORDS), max_size=12).map("".join)
)
CUSTOM = [
    r"\w+",
    r"(\w)(?:(\d)|\s)?",
    "x*",
    r"(?=a)",
    r"(?<=a)b",
    r"^.|.$",
    "(?s).+",
    "(?!)",
    r"\X",
]


@lru_cache
def trained(corpus: str, pattern: str) -> Vocabulary:
    return train([corpus], vocab_size=900, special_tokens=[EOT], pattern=pattern)


@lru_cache
def both(corpus: str, pattern: str) -> tuple[Tokenizer, tiktoken.Encoding]:
    """Ours and tiktoken's encoder of one vocabulary: its ranks are the ids of ours."""
    vocabulary = trained(corpus, pattern)
    special_ids = {EOT: 899}
    ranks = {token: token_id for token_id, token in vocabulary.tokens.items() if token_id != 899}
    theirs = tiktoken.Encoding(
        "here", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special_ids
    )
    return Tokenizer.from_vocabulary(vocabulary), theirs


@settings(deadline=None, derandomize=True, max_examples=120)
@given(
    text=st.text(NASTY, max_size=60) | st.lists(st.sampled_from(WORDS), max_size=12).map("".join)
)
@pytest.mark.parametrize("pattern", [GPT2, CL100K, O200K], ids=list(PATTERNS))
def test_ids_are_those_of_tiktoken(corpus: str, pattern: str, text: str) -> None:
    ours, theirs = both(corpus, pattern)
    assert ours.encode(text) == theirs.encode(text, allowed_special="all")


@pytest.mark.parametrize("pattern", [GPT2, CL100K, O200K], ids=list(PATTERNS))
def test_ids_of_a_whole_corpus_are_those_of_tiktoken(corpus: str, pattern: str) -> None:
    ours, theirs = both(corpus, pattern)
    expected = theirs.encode(corpus, allowed_special="all")
    assert ours.encode(corpus) == expected
    assert len(expected) < len(corpus.encode()) / 2, "the merges are used"


@pytest.mark.parametrize("run", ["a", " ", "\n", "ab", "\u4e2d", "'s"], ids=ascii)
def test_ids_of_long_runs_are_those_of_tiktoken(corpus: str, run: str) -> None:
    ours, theirs = both(corpus, GPT2)
    text = run * 5000
    assert ours.encode(text) == theirs.encode(text)


@settings(deadline=None, derandomize=True, max_examples=240)
@given(text=ANY_TEXT, pattern=st.sampled_from([GPT2, CL100K, O200K, *CUSTOM]))
def test_decoding_gives_back_the_text(pattern: str, text: str) -> None:
    tokenizer = Tokenizer(VOCAB, MERGES, [EOT, "aa", " "], pattern=pattern)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()


@settings(deadline=None, derandomize=True, max_examples=240)
@given(
    chunks=st.lists(ANY_TEXT, max_size=8),
    pattern=st.sampled_from([GPT2, CL100K, O200K, *CUSTOM]),
    special_tokens=st.sampled_from([None, [EOT], ["a", "aa", "<|", " <"], ["s s", "a b"]]),
)
def test_a_stream_has_the_ids_of_the_joined_text(
    pattern: str, special_tokens: list[str] | None, chunks: list[str]
) -> None:
    tokenizer = Tokenizer(VOCAB, MERGES, special_tokens, pattern=pattern)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_tokenizer, "_STREAM_WINDOW_BYTES", 4)
        assert list(tokenizer.encode_iterable(chunks)) == tokenizer.encode("".join(chunks))


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k", "(?s).+"])
def test_a_special_token_may_come_in_pieces(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tokenizer, "_STREAM_WINDOW_BYTES", 4)
    tokenizer = Tokenizer(VOCAB, MERGES, ["<a b>", "<a b> <a b>"], pattern=pattern)
    text = "low <a b>low<a b> <a b> <a b"
    for size in range(1, len(text)):
        chunks = [text[start : start + size] for start in range(0, len(text), size)]
        assert list(tokenizer.encode_iterable(chunks)) == tokenizer.encode(text)


@pytest.mark.parametrize("size", [1, 1000, 2**16, 2**20])
def test_a_stream_of_many_blocks_has_the_ids_of_the_joined_text(
    corpus: str, vocabulary: Vocabulary, size: int
) -> None:
    tokenizer = Tokenizer.from_vocabulary(vocabulary)
    text = corpus * (4 * 2**16 // len(corpus) + 1)
    chunks = (text[start : start + size] for start in range(0, len(text), size))
    assert list(tokenizer.encode_iterable(chunks)) == tokenizer.encode(text)


def test_text_that_a_pattern_leaves_out_is_encoded_byte_by_byte() -> None:
    tokenizer = Tokenizer(VOCAB, MERGES, pattern=r"l\w+")
    assert tokenizer.encode("lower er") == [257, 259, *b" er"]


def test_no_merge_crosses_a_word() -> None:
    assert Tokenizer(VOCAB, MERGES, pattern="l|ow| ").encode(" low") == [*b" low"]
    assert Tokenizer(VOCAB, MERGES).encode(" low") == [258]


def test_a_worked_example() -> None:
    tokenizer = Tokenizer(VOCAB, MERGES)
    assert tokenizer.encode("low lower slow") == [257, 258, 259, *b" s", 257]


def test_the_merges_decide_and_not_the_tokens() -> None:
    # "low" is a token, yet no merge leads to it.
    assert Tokenizer(VOCAB, MERGES[:1]).encode("low") == [256, *b"w"]


def test_the_first_of_two_equal_merges_counts() -> None:
    merges = [(b"o", b"w"), (b"l", b"o"), (b"o", b"w")]
    assert Tokenizer(VOCAB | {300: b"ow"}, merges).encode("low") == [*b"l", 300]


def test_of_two_ids_with_the_same_bytes_the_lower_is_used() -> None:
    tokenizer = Tokenizer({700: b"low", **VOCAB, 600: b"a"}, MERGES, ["low"])
    assert tokenizer.encode("lowa") == [257, *b"a"]
    assert tokenizer.decode([700, 600]) == "lowa"


# Special tokens


def test_without_special_tokens_none_is_recognised() -> None:
    tokenizer = Tokenizer(VOCAB | {260: b"<s>"}, MERGES)
    assert tokenizer.encode("<s>") == [*b"<s>"]
    assert tokenizer.special_tokens == {}
    assert tokenizer.decode([260]) == "<s>"


def test_special_tokens_are_one_token_each_wherever_they_stand() -> None:
    tokenizer = Tokenizer(VOCAB | {260: b"<s>"}, MERGES, ["<s>"])
    assert tokenizer.encode("<s>lo<s>w <s><s>") == [260, 256, 260, *b"w ", 260, 260]


def test_missing_special_tokens_are_appended_in_the_given_order() -> None:
    tokenizer = Tokenizer(VOCAB | {1000: b"<m>"}, MERGES, ["<z>", "<m>", "<a>"])
    assert tokenizer.special_tokens == {"<z>": 1001, "<m>": 1000, "<a>": 1002}
    assert tokenizer.encode("<a><m><z>") == [1002, 1000, 1001]
    assert tokenizer.vocab_size == 1003


def test_the_longest_special_token_wins() -> None:
    tokenizer = Tokenizer(VOCAB, MERGES, ["<s>", "<s><s>", "<s"])
    assert tokenizer.encode("<s><s><s><s") == [261, 260, 262]


def test_a_special_token_may_be_a_token_already() -> None:
    assert Tokenizer(VOCAB, MERGES, ["er"]).special_tokens == {"er": 259}
    assert Tokenizer(VOCAB, MERGES, ["l"]).encode("low") == [*b"low"]


def test_the_mapping_of_special_tokens_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        Tokenizer(VOCAB, MERGES, ["<s>"]).special_tokens["<t>"] = 5  # type: ignore[index]


# What is refused


@pytest.mark.parametrize(("text", "index"), [("\ud800", 0), ("ab\udfff", 2), ("\ud83d\ude00", 0)])
def test_an_unpaired_surrogate_is_refused(text: str, index: int) -> None:
    tokenizer = Tokenizer(VOCAB, MERGES)
    with pytest.raises(ValueError, match=f"text must not contain .* at index {index}"):
        tokenizer.encode(text)
    with pytest.raises(ValueError, match=f"text must not contain .* at index {index + 150_000}"):
        list(tokenizer.encode_iterable(["low " * 37_500, text]))


def test_no_id_is_lost_before_an_unpaired_surrogate_in_a_later_block() -> None:
    tokenizer, ids = Tokenizer(VOCAB, MERGES), []
    with pytest.raises(ValueError, match="at index 100000"):
        ids.extend(tokenizer.encode_iterable(["low " * 25_000, "\ud800"]))
    assert tokenizer.decode(ids).startswith("low " * 10_000)


@pytest.mark.parametrize("text", [b"low", None, 5, ["low"]], ids=repr)
def test_text_that_is_no_string_is_refused(text: object) -> None:
    tokenizer = Tokenizer(VOCAB, MERGES)
    with pytest.raises(TypeError, match=r"text must .*string"):
        tokenizer.encode(text)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"text must .*string"):
        list(tokenizer.encode_iterable([text]))  # type: ignore[list-item]


@pytest.mark.parametrize("token_id", [260, -1, 10**30])
def test_an_unknown_id_is_refused(token_id: int) -> None:
    tokenizer = Tokenizer(VOCAB, MERGES)
    rule = rf"ids must be in the vocabulary of 260 tokens \(0 to 259\), got {token_id}"
    for call in (tokenizer.decode, tokenizer.decode_bytes):
        with pytest.raises(ValueError, match=rule):
            call([97, token_id])
    with pytest.raises(ValueError, match=rule):
        tokenizer.token_bytes(token_id)


def test_an_id_in_a_gap_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vocabulary of 257 tokens \(0 to 999\), got 500"):
        Tokenizer(BYTES | {999: b"ab"}, []).decode([500])


class WholeNumber:
    """An integer as array libraries have them: `__index__`, and no hash."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value

    def __eq__(self, other: object) -> bool:
        raise NotImplementedError


def test_an_id_may_be_any_whole_number() -> None:
    tokenizer = Tokenizer(VOCAB, MERGES)
    assert tokenizer.decode(map(WholeNumber, [257, 259])) == "lower"
    assert tokenizer.decode(bytes([108, 111])) == "lo"
    with pytest.raises(ValueError, match="got 260"):
        tokenizer.decode([WholeNumber(260)])  # type: ignore[list-item]


@pytest.mark.parametrize("token_id", [97.0, 97.5, Fraction(97), "a", None, b"a", [97]], ids=repr)
def test_an_id_that_is_no_whole_number_is_refused(token_id: object) -> None:
    with pytest.raises(TypeError, match="ids must be whole numbers, got "):
        Tokenizer(VOCAB, MERGES).decode([token_id])  # type: ignore[list-item]


def test_an_incomplete_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens must hold all 256 single bytes, got none for 0x"):
        Tokenizer({}, [])
    with pytest.raises(ValueError, match="got no b'lo' for merge 0"):
        Tokenizer(BYTES, MERGES)


@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        ({"a": b"a"}, "ids must be whole numbers, got 'a'"),
        ({0: bytearray(b"a")}, "tokens must be bytes, got bytearray"),
        ({0: "a"}, "tokens must be bytes, got 'a' for id 0"),
    ],
)
def test_a_vocabulary_of_wrong_types_is_refused(vocab: dict[int, bytes], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Tokenizer(vocab, [], ["<s>"])


@pytest.mark.parametrize(
    ("special_tokens", "error", "message"),
    [
        ([""], ValueError, "special_tokens must not be empty strings"),
        (["<s>", "<s>"], ValueError, "special_tokens must be distinct, got '<s>' twice"),
        (["\ud800"], ValueError, r"special_tokens must not .* '\\ud800' at index 0"),
        ("<s>", TypeError, "special_tokens must be a sequence of strings, got the single string"),
        ([5], TypeError, "special_tokens must be strings, got 5"),
    ],
)
def test_a_bad_special_token_is_refused(
    special_tokens: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Tokenizer(VOCAB, MERGES, special_tokens)


# Decoding


def test_bytes_that_are_not_utf8_become_replacement_characters() -> None:
    tokenizer = Tokenizer(VOCAB, MERGES)
    assert tokenizer.decode([97, 0xE2, 0x82, 98, 0xFF]) == "a\ufffdb\ufffd"
    assert tokenizer.decode_bytes([97, 0xE2, 0x82, 98, 0xFF]) == b"a\xe2\x82b\xff"


@settings(deadline=None, derandomize=True, max_examples=80)
@given(data=st.binary())
def test_decoding_replaces_as_python_does(data: bytes) -> None:
    tokenizer = Tokenizer(VOCAB, MERGES)
    assert tokenizer.decode(data) == data.decode("utf-8", errors="replace")


def test_nothing_decodes_to_nothing() -> None:
    assert Tokenizer(VOCAB, MERGES).decode([]) == ""
    assert Tokenizer(VOCAB, MERGES).encode("") == []


def test_ids_may_come_from_an_iterator() -> None:
    assert Tokenizer(VOCAB, MERGES).decode(iter([257, 259])) == "lower"


def test_a_character_of_several_tokens_is_decoded_whole() -> None:
    tokenizer = Tokenizer(VOCAB, MERGES)
    ids = tokenizer.encode("\U0001f600")
    assert len(ids) == 4
    assert tokenizer.decode(ids) == "\U0001f600"


# Streams


def test_a_stream_is_lazy() -> None:
    consumed = 0

    def endless() -> Iterator[str]:
        nonlocal consumed
        while True:
            consumed += 1
            yield "low lower "

    ids = Tokenizer(VOCAB, MERGES).encode_iterable(endless())
    assert isinstance(ids, GeneratorType)
    assert consumed == 0
    assert list(islice(ids, 3)) == [257, 258, 259]
    assert consumed <= 2**16 / len("low lower ") + 1


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k"])
@pytest.mark.parametrize("line", ["low;lower\n", "low lower "], ids=repr)
def test_a_stream_holds_only_a_few_blocks(pattern: str, line: str) -> None:
    ahead = 0

    def lines() -> Iterator[str]:
        nonlocal ahead
        for _ in range(40_000):
            ahead += len(line)
            yield line

    tokenizer, most_ahead = Tokenizer(VOCAB, MERGES, pattern=pattern), 0
    for token_id in tokenizer.encode_iterable(lines()):
        most_ahead = max(most_ahead, ahead)
        ahead -= len(tokenizer.token_bytes(token_id))
    assert ahead == 0
    assert most_ahead <= 2 * 2**16


def test_a_string_is_a_stream_of_its_characters() -> None:
    tokenizer = Tokenizer(VOCAB, MERGES)
    assert list(tokenizer.encode_iterable("low lower")) == tokenizer.encode("low lower")


# The object


def test_the_vocabulary_of_a_tokenizer_makes_it_again(vocabulary: Vocabulary, corpus: str) -> None:
    tokenizer = Tokenizer.from_vocabulary(vocabulary)
    assert tokenizer.vocabulary == vocabulary
    assert tokenizer.encode(corpus).count(tokenizer.special_tokens[EOT]) == corpus.count(EOT)


@pytest.mark.parametrize("form", [str, Path])
def test_saving_and_loading_changes_nothing(tmp_path: Path, form: type) -> None:
    path = form(tmp_path / "tokenizer.json")
    tokenizer = Tokenizer(VOCAB, MERGES, ["<s>"], pattern="cl100k")
    tokenizer.save(path)
    loaded = Tokenizer.load(path)
    assert loaded.vocabulary == tokenizer.vocabulary
    assert loaded.encode("low<s> 12345") == tokenizer.encode("low<s> 12345")


def test_what_is_no_vocabulary_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("{}")
    with pytest.raises(ValueError, match="file must be a scratch-bpe vocabulary"):
        Tokenizer.load(tmp_path / "file")


def test_token_bytes_are_public() -> None:
    tokenizer = Tokenizer(VOCAB, MERGES, ["<s>"])
    assert [tokenizer.token_bytes(token_id) for token_id in (0, 258, 260)] == [
        b"\x00",
        b" low",
        b"<s>",
    ]


def test_the_vocabulary_size_is_one_more_than_the_greatest_id() -> None:
    assert Tokenizer(VOCAB, MERGES).vocab_size == 260
    assert Tokenizer(VOCAB | {999: b"xy"}, MERGES).vocab_size == 1000


def test_changing_what_it_was_made_of_changes_nothing() -> None:
    vocab, merges, special_tokens = dict(VOCAB), list(MERGES), ["<s>"]
    tokenizer = Tokenizer(vocab, merges, special_tokens)
    vocab.clear()
    merges.clear()
    special_tokens.clear()
    assert tokenizer.decode(tokenizer.encode("low<s>")) == "low<s>"
    assert tokenizer.encode("low<s>") == [257, 260]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_copy_through_pickle_encodes_the_same(protocol: int) -> None:
    tokenizer = Tokenizer(VOCAB, MERGES, ["<s>"], pattern="o200k")
    tokenizer.encode("some low words")
    copied = pickle.loads(pickle.dumps(tokenizer, protocol))
    assert copied.vocabulary == tokenizer.vocabulary
    assert copied.encode("low lower<s>") == tokenizer.encode("low lower<s>")
    assert copied.special_tokens == tokenizer.special_tokens


def test_a_deep_copy_encodes_the_same() -> None:
    tokenizer = Tokenizer(VOCAB, MERGES, ["<s>"])
    assert copy.deepcopy(tokenizer).encode("low<s>") == tokenizer.encode("low<s>")


def test_a_remembered_word_cannot_be_changed_from_outside() -> None:
    tokenizer = Tokenizer(VOCAB, MERGES)
    for _ in range(2):
        tokenizer.encode("low").clear()
    assert tokenizer.encode("low") == [257]


def test_threads_may_share_a_tokenizer(
    corpus: str, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_short_texts, "_MOST_ADDED", 16)
    texts = [corpus[start : start + 5000 * (start % 3)] for start in range(0, 40_000, 5000)]
    expected = [Tokenizer.from_vocabulary(vocabulary).encode(text) for text in texts]
    shared, results = Tokenizer.from_vocabulary(vocabulary), [[]] * 8

    def work(number: int) -> None:
        for _ in range(5):
            results[number] = shared.encode(texts[number])
            assert list(shared.encode_iterable([texts[number]])) == results[number]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == expected


def test_its_description_is_short(vocabulary: Vocabulary) -> None:
    assert repr(Tokenizer(VOCAB, MERGES, ["<s>"])) == (
        "Tokenizer(vocab_size=261, special_tokens=['<s>'])"
    )
    assert len(repr(Tokenizer.from_vocabulary(vocabulary))) < 100


def test_the_examples_in_the_documentation_run() -> None:
    results = doctest.testmod(_tokenizer)
    assert results.attempted > 0
    assert results.failed == 0
