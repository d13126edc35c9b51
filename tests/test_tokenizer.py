"""Contract: encoding and decoding, with tiktoken as oracle over a vocabulary trained here."""

import json
import random
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from .adapters import get_tokenizer
from .texts import EOT, GPT2, NASTY, UNICODE, Trained, sample_text, split_leftmost_longest

BYTES = {byte: bytes([byte]) for byte in range(256)}
ANY_TEXT = settings(deadline=None, derandomize=True, max_examples=200)


def oracle(trained: Trained) -> tiktoken.Encoding:
    special_id = max(trained.vocab)
    ranks = {token: id_ for id_, token in trained.vocab.items() if id_ != special_id}
    return tiktoken.Encoding(
        name="trained", pat_str=GPT2, mergeable_ranks=ranks, special_tokens={EOT: special_id}
    )


# --- ids


@ANY_TEXT
@given(text=NASTY)
def test_ids_equal_those_of_tiktoken(trained: Trained, text: str) -> None:
    expected = oracle(trained).encode(text, allowed_special={EOT})
    assert get_tokenizer(*trained, [EOT]).encode(text) == expected


@ANY_TEXT
@given(text=UNICODE | NASTY)
@pytest.mark.parametrize("special_tokens", [None, [EOT], [EOT, "<|", EOT + EOT]], ids=str)
def test_decoding_undoes_encoding(
    trained: Trained, special_tokens: list[str] | None, text: str
) -> None:
    tokenizer = get_tokenizer(*trained, special_tokens)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_long_text_has_the_ids_of_tiktoken(trained: Trained) -> None:
    text = sample_text(seed=2, fragments=60_000, special_tokens=[EOT])
    expected = oracle(trained).encode(text, allowed_special={EOT})
    assert get_tokenizer(*trained, [EOT]).encode(text) == expected


@pytest.mark.parametrize(
    "text",
    ["a" * 200_000, "".join(random.Random(3).choices("elnorstw", k=200_000)), "\n" * 20_000 + "a"],
    ids=["one_letter", "random_letters", "line_ends"],
)
def test_a_long_pre_token_has_the_ids_of_tiktoken(trained: Trained, text: str) -> None:
    assert get_tokenizer(*trained).encode(text) == oracle(trained).encode(text)


def test_merges_apply_in_order_of_creation_whatever_their_ids() -> None:
    merges = [(b"b", b"c"), (b"a", b"b"), (b"a", b"bc")]
    vocab = BYTES | {300: b"bc", 299: b"ab", 298: b"abc"}
    assert get_tokenizer(vocab, merges).encode("abc ab bc") == [298, 32, 299, 32, 300]
    assert get_tokenizer(vocab, merges[1::-1]).encode("abc") == [299, ord("c")]


def test_of_equal_pairs_the_leftmost_merges_first() -> None:
    tokenizer = get_tokenizer(BYTES | {256: b"aa"}, [(b"a", b"a")])
    assert tokenizer.encode("aaaaa") == [256, 256, ord("a")]


def test_the_empty_text_has_no_ids(trained: Trained) -> None:
    tokenizer = get_tokenizer(*trained, [EOT])
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""


# --- special tokens


def test_without_special_tokens_none_is_recognised(trained: Trained) -> None:
    text = f"low{EOT}low"
    expected = oracle(trained).encode(text, disallowed_special=())
    assert get_tokenizer(*trained).encode(text) == expected
    assert get_tokenizer(*trained, []).encode(text) == expected
    assert max(trained.vocab) not in expected


def test_special_tokens_that_the_vocabulary_lacks_follow_its_greatest_id() -> None:
    tokenizer = get_tokenizer(BYTES | {1000: EOT.encode()}, [], ["<|pad|>", EOT, "<|user|>"])
    assert tokenizer.encode(f"<|user|>{EOT}<|pad|>") == [1002, 1000, 1001]
    assert tokenizer.decode([1001, 1002]) == "<|pad|><|user|>"


def test_the_given_vocabulary_is_left_alone() -> None:
    vocab = dict(BYTES)
    get_tokenizer(vocab, [], [EOT])
    assert vocab == BYTES


def test_the_longest_of_overlapping_special_tokens_wins() -> None:
    tokenizer = get_tokenizer(BYTES, [], [EOT, EOT + EOT])
    assert tokenizer.encode(EOT * 3 + "a" + EOT) == [257, 256, ord("a"), 256]


def test_the_leftmost_of_overlapping_special_tokens_wins_over_a_longer_one() -> None:
    tokenizer = get_tokenizer(BYTES, [], ["ab", "bcde", "a.c"])
    assert tokenizer.encode("abcde") == [256, *b"cde"]
    assert tokenizer.encode("bcde axc") == [257, *b" axc"]


@ANY_TEXT
@given(
    text=st.text("abc ", max_size=40),
    special_tokens=st.lists(st.text("abc ", min_size=2, max_size=4), unique=True, max_size=4),
)
def test_special_tokens_split_leftmost_longest(text: str, special_tokens: list[str]) -> None:
    expected: list[str] = []
    for ordinary, special in split_leftmost_longest(text, special_tokens):
        expected += [*ordinary, *filter(None, [special])]
    tokenizer = get_tokenizer(BYTES, [], special_tokens)
    assert [tokenizer.decode([id_]) for id_ in tokenizer.encode(text)] == expected


# --- refusals and replacements


@pytest.mark.parametrize(
    ("text", "index"), [("\ud800", 0), ("éé🙃\udfff", 3), ("a\ud83d\ude00", 1)]
)
def test_a_lone_surrogate_is_refused_by_its_index(text: str, index: int) -> None:
    with pytest.raises(ValueError, match=rf"\b{index}\b"):
        get_tokenizer(BYTES, []).encode(text)


@pytest.mark.parametrize("unknown", [256, -1, 10**9])
def test_an_unknown_id_is_refused_by_name(unknown: int) -> None:
    with pytest.raises(ValueError, match=rf"{unknown}\b"):
        get_tokenizer(BYTES, []).decode([104, unknown, 105])


@given(content=st.binary())
@ANY_TEXT
def test_bytes_that_are_not_utf_8_decode_to_replacement_characters(content: bytes) -> None:
    text = get_tokenizer(BYTES, []).decode(iter(content))
    assert text == content.decode("utf-8", errors="replace")


def test_a_character_may_be_spread_over_tokens() -> None:
    tokenizer = get_tokenizer(BYTES, [])
    assert tokenizer.decode("🙃".encode()) == "🙃"
    assert tokenizer.decode("🙃".encode()[:3] + b"a") == "\ufffda"


@pytest.mark.parametrize("missing", [0, 97, 255])
def test_a_vocabulary_that_lacks_a_byte_is_refused(missing: int) -> None:
    vocab = {id_: token for id_, token in BYTES.items() if id_ != missing}
    with pytest.raises(ValueError, match=rf"(?i)byte.*{missing:#04x}"):
        get_tokenizer(vocab, [])


def test_a_vocabulary_that_lacks_the_product_of_a_merge_is_refused() -> None:
    with pytest.raises(ValueError, match=r"merge.*lo"):
        get_tokenizer(BYTES, [(b"l", b"o")])


# --- files


def printable(token: bytes) -> str:
    """Spell bytes as GPT-2's files do: invisible ones take the characters from U+0100 on."""
    hidden = [byte for byte in range(256) if byte == 32 or not chr(byte).isprintable()]
    return "".join(chr(256 + hidden.index(b)) if b in hidden else chr(b) for b in token)


@pytest.mark.parametrize("special_tokens", [None, [EOT], [EOT, "<|end of turn|>"]], ids=str)
def test_files_in_the_format_of_gpt_2_give_the_same_tokenizer(
    trained: Trained, tmp_path: Path, special_tokens: list[str] | None
) -> None:
    vocab_path, merges_path = tmp_path / "vocab.json", tmp_path / "merges.txt"
    vocab = {printable(token): id_ for id_, token in trained.vocab.items()}
    vocab_path.write_text(json.dumps(vocab), encoding="utf-8")
    lines = [f"{printable(left)} {printable(right)}\n" for left, right in trained.merges]
    merges_path.write_text("#version: 0.2\n" + "".join(lines), encoding="utf-8")

    expected = get_tokenizer(*trained, special_tokens)
    for folder in (tmp_path, str(tmp_path)):
        files = [Path(folder, name) for name in ("vocab.json", "merges.txt")]
        paths = [str(file) for file in files] if isinstance(folder, str) else files
        loaded = type(expected).from_files(*paths, special_tokens=special_tokens)
        text = sample_text(seed=7, fragments=2_000, special_tokens=[EOT, "<|end of turn|>"])
        assert loaded.encode(text) == expected.encode(text)
        assert loaded.decode(loaded.encode(text)) == text
