"""Every way to encode gives the ids of the plain form, and of tiktoken."""

import random
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe import PATTERNS, Tokenizer, Vocabulary, _tokenizer
from scratch.bpe import train_bpe_from_iterator as train
from scratch.bpe._encode import PlainEncoder

EOT = "<|endoftext|>"
NASTY = " \t\r\n\u00a0\u3000\u0085\u001c\0'sStlLaA1\u00b2!./_<|>\u0301\U0001f600\u017f\u4e2d"
WORDS = ["The old", " miller's", " WE'LL", "camelCase", " 12345", EOT, "\r\n\r\n", "   ", "\u4eca"]
TEXTS = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
    | st.text(NASTY, max_size=40)
    | st.lists(st.sampled_from(WORDS), max_size=12).map("".join)
)
CUSTOM = [r"\w+", r"(\w)(?:(\d)|\s)?", r"(?<=a)b", "(?s).+", "(?!)"]

Form = Callable[[Tokenizer, str], list[int]]


def encode_as_array(tokenizer: Tokenizer, text: str) -> list[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_tokenizer, "_SHORT_CHARS", 0)
        return tokenizer.encode(text)


FORMS: dict[str, Form] = {
    "encode": lambda tokenizer, text: tokenizer.encode(text),
    "array": encode_as_array,
    "numpy": lambda tokenizer, text: tokenizer.encode_to_numpy(text).tolist(),
    "batch": lambda tokenizer, text: tokenizer.encode_batch(["a", text, "", " "])[1],
    "iterable": lambda tokenizer, text: list(tokenizer.encode_iterable(text)),
    "blocks": lambda tokenizer, text: np.concatenate(
        [np.empty(0, np.uint32), *tokenizer.encode_blocks(letter.encode() for letter in text)]
    ).tolist(),
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@lru_cache
def trained(corpus: str, pattern: str) -> tuple[Tokenizer, PlainEncoder]:
    return both(train([corpus], vocab_size=900, special_tokens=[EOT, " 12"], pattern=pattern))


def both(vocabulary: Vocabulary) -> tuple[Tokenizer, PlainEncoder]:
    return Tokenizer.from_vocabulary(vocabulary), PlainEncoder(vocabulary)


@every_form
@pytest.mark.parametrize("pattern", [*PATTERNS, *CUSTOM])
def test_ids_are_those_of_the_plain_form(corpus: str, pattern: str, form: Form) -> None:
    tokenizer, plain = trained(corpus, pattern)

    @settings(deadline=None, derandomize=True, max_examples=25)
    @given(text=TEXTS)
    def check(text: str) -> None:
        assert form(tokenizer, text) == plain.encode(text)

    check()


@every_form
@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", r"\w+"])
def test_ids_of_a_corpus_are_those_of_the_plain_form(corpus: str, pattern: str, form: Form) -> None:
    tokenizer, plain = trained(corpus, pattern)
    assert form(tokenizer, corpus) == plain.encode(corpus)


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k"])
def test_ids_of_ordinary_text_are_those_of_tiktoken(corpus: str, pattern: str) -> None:
    vocabulary = train([corpus], vocab_size=900, special_tokens=[EOT], pattern=pattern)
    ranks = {token: token_id for token_id, token in vocabulary.tokens.items() if token_id != 899}
    theirs = tiktoken.Encoding(
        "here", pat_str=vocabulary.pattern, mergeable_ranks=ranks, special_tokens={EOT: 899}
    )
    ours = Tokenizer.from_vocabulary(vocabulary)
    for text in (corpus, corpus[:100], corpus.replace("\n", EOT)[:3000], EOT, ""):
        assert ours.encode_ordinary(text) == theirs.encode_ordinary(text)
        assert ours.encode(text) == theirs.encode(text, allowed_special="all")
        assert ours.encode_batch([text]) == [theirs.encode(text, allowed_special="all")]


def test_ordinary_text_cannot_write_a_special_token(vocabulary: Vocabulary) -> None:
    tokenizer = Tokenizer.from_vocabulary(vocabulary)
    special = tokenizer.special_tokens[EOT]
    for text in (f"a{EOT}", f"a{EOT}" * 500):
        assert special in tokenizer.encode(text)
        assert special not in tokenizer.encode_ordinary(text)
        assert tokenizer.decode(tokenizer.encode_ordinary(text)) == text


def test_a_batch_is_encoded_text_by_text(corpus: str, vocabulary: Vocabulary) -> None:
    rng = random.Random(0)
    tokenizer = Tokenizer.from_vocabulary(vocabulary)
    cuts = sorted(rng.choices(range(len(corpus)), k=300))
    texts = [corpus[start:stop] for start, stop in zip([0, *cuts], [*cuts, None], strict=True)]
    texts += ["", corpus * 20, "", "\n", "a" * 3000]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(tuple(texts)) == tokenizer.encode_batch(texts)
    assert tokenizer.encode_batch([]) == []


def test_the_text_of_a_batch_that_is_bad_is_named(vocabulary: Vocabulary) -> None:
    tokenizer = Tokenizer.from_vocabulary(vocabulary)
    with pytest.raises(ValueError, match=r"texts\[1\] must not contain .* at index 2"):
        tokenizer.encode_batch(["good", "ab\ud800"])
    with pytest.raises(TypeError, match=r"texts\[0\] must be a string, got int"):
        tokenizer.encode_batch([3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="texts must be a sequence of strings"):
        tokenizer.encode_batch("abc")


@pytest.mark.parametrize("form", [FORMS[name] for name in ("encode", "numpy", "iterable")])
def test_an_unpaired_surrogate_is_named_in_long_texts_too(form: Form) -> None:
    tokenizer = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [])
    with pytest.raises(ValueError, match=r"surrogates, got '\\udc80' at index 2"):
        form(tokenizer, "ab\udc80" + "c" * 5000)


def test_counting_tokens_is_the_number_of_ids(corpus: str, vocabulary: Vocabulary) -> None:
    tokenizer = Tokenizer.from_vocabulary(vocabulary)
    for text in ("", "a", corpus[:500], corpus, EOT * 3):
        assert tokenizer.count_tokens(text) == len(tokenizer.encode(text))


@pytest.mark.parametrize(
    ("greatest", "dtype"), [(2**16 - 1, np.uint16), (2**16, np.uint32), (2**31 - 1, np.uint32)]
)
def test_the_array_has_the_smallest_type_that_holds_all_ids(
    greatest: int, dtype: type[np.generic]
) -> None:
    vocab = {byte: bytes([byte]) for byte in range(256)} | {greatest: b"ab"}
    tokenizer = Tokenizer(vocab, [(b"a", b"b")])
    for text in ("", "ab c", "ab " * 2000):
        ids = tokenizer.encode_to_numpy(text)
        assert ids.dtype == dtype
        assert ids.tolist() == tokenizer.encode(text)
        assert tokenizer.decode(ids) == text


def test_an_id_beyond_31_bits_is_refused() -> None:
    vocab = {byte: bytes([byte]) for byte in range(256)} | {2**31: b"ab"}
    with pytest.raises(ValueError, match=r"ids must be less than 2\*\*31, got 2147483648"):
        Tokenizer(vocab, [(b"a", b"b")])


@every_form
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_whole_word_is_one_token_though_no_merges_lead_there(pattern: str, form: Form) -> None:
    tokens = {byte: bytes([byte]) for byte in range(256)} | {256: b"lo", 257: b" slow", 258: b"low"}
    vocabulary = Vocabulary(tokens, ((b"l", b"o"),), (), pattern, (b" slow", b"low"))
    tokenizer, plain = both(vocabulary)
    for text in ("low slow slower", " slow", "slow low" * 999, "low" * 40):
        assert form(tokenizer, text) == plain.encode(text)
    assert form(tokenizer, "low slow slower") == [258, 257, 32, 115, 256, 119, 101, 114]


@every_form
def test_merges_in_another_order_than_training_makes_are_applied_one_by_one(form: Form) -> None:
    tokens = {byte: bytes([byte]) for byte in range(256)} | {256: b"aba", 257: b"ab"}
    vocabulary = Vocabulary(tokens, ((b"ab", b"a"), (b"a", b"b")))  # a part is made after its whole
    tokenizer, plain = both(vocabulary)
    for text in ("abab", "ababab abab", "aabba" * 1000):
        assert form(tokenizer, text) == plain.encode(text)
    assert form(tokenizer, "abab") == [256, 98]


@every_form
@pytest.mark.parametrize(
    "text",
    [
        "a" * 100_000,
        " " * 100_000,
        "\0" * 257 + " \0",
        "\n" * 10_000 + "x",
        "ab" * 50_000,
        "\u4e2d" * 20_000,
        "\r\n" * 5000,
        "\ufeffbom",
        "'s" * 5000,
        " \u3000" * 5000,
    ],
    ids=lambda text: ascii(text[:4]),
)
def test_long_runs_have_the_ids_of_the_plain_form(corpus: str, form: Form, text: str) -> None:
    tokenizer, plain = trained(corpus, "gpt2")
    assert form(tokenizer, text) == plain.encode(text)
