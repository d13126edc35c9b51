"""Applying merges to many words at once, against applying them word by word."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe import _batched_encode
from scratch.bpe._batched_encode import BatchedMerges
from scratch.bpe._encode import apply_merges
from scratch.bpe._merge_table import MAX_SYMBOLS
from scratch.bpe._word_keys import spell_long

Merges = dict[tuple[int, int], tuple[int, int]]


class Rules:
    """Tokens and merges made by naming pairs of tokens, and both ways to apply them."""

    def __init__(self, pairs: Sequence[tuple[bytes, bytes]], byte_symbols: Sequence[int]) -> None:
        by_symbol = sorted(range(256), key=lambda byte: byte_symbols[byte])
        self.tokens = [bytes([byte]) for byte in by_symbol]
        self.byte_symbols = byte_symbols
        known = {token: symbol for symbol, token in enumerate(self.tokens)}
        for left, right in pairs:
            for token in (left, right, left + right):
                if token not in known:
                    known[token] = len(self.tokens)
                    self.tokens.append(token)
        self.merges: Merges = {}
        for rank, (left, right) in enumerate(pairs):
            self.merges.setdefault((known[left], known[right]), (rank, known[left + right]))
        self.batched = BatchedMerges(self.tokens, byte_symbols, self.merges)

    def check(self, words: Sequence[bytes]) -> None:
        symbols, counts = self.batched.apply(*spell_long(list(words)))
        assert symbols.dtype == np.int32
        ends = counts.cumsum().tolist()
        found = [
            symbols[end - count : end].tolist()
            for end, count in zip(ends, counts.tolist(), strict=True)
        ]
        assert sum(counts) == len(symbols)
        for word, of_word in zip(words, found, strict=True):
            expected = apply_merges([self.byte_symbols[byte] for byte in word], self.merges)
            assert of_word == expected, word


def random_rules(rng: random.Random, letters: bytes, count: int, *, in_order: bool) -> Rules:
    """Random merges; unless in order, also before those that make their parts, and twice."""
    tokens = [bytes([letter]) for letter in letters]
    pairs: list[tuple[bytes, bytes]] = []
    for _ in range(count):
        left, right = rng.choice(tokens), rng.choice(tokens)
        if len(left + right) > 12 or (in_order and left + right in tokens):
            continue
        pairs.append((left, right))
        tokens.append(left + right)
    if not in_order:
        pairs += rng.choices(pairs, k=3)
        rng.shuffle(pairs)
    byte_symbols = rng.sample(range(256), k=256)
    return Rules(pairs, byte_symbols)


def random_words(rng: random.Random, letters: bytes, longest: int = 40) -> list[bytes]:
    return [
        bytes(rng.choices(letters, k=rng.randrange(1, rng.choice([2, 5, longest]) + 1)))
        for _ in range(rng.choice([1, 2, 9, 60]))
    ]


@pytest.mark.parametrize("in_order", [True, False], ids=["in_order", "in_any_order"])
@pytest.mark.parametrize("seed", range(30))
def test_words_have_the_symbols_of_one_by_one(seed: int, in_order: bool) -> None:
    rng = random.Random(seed)
    for _ in range(12):
        letters = rng.choice([b"a", b"ab", b"abc", b"\0\xff", bytes(range(97, 123))])
        rules = random_rules(rng, letters, rng.choice([1, 3, 10, 60]), in_order=in_order)
        words = random_words(rng, letters + rng.choice([b"", b"x"]))
        rules.check(words)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1100))
def test_many_words_have_the_symbols_of_one_by_one(seed: int) -> None:
    test_words_have_the_symbols_of_one_by_one(seed, True)
    test_words_have_the_symbols_of_one_by_one(seed, False)


@settings(deadline=None, derandomize=True, max_examples=120)
@given(
    pairs=st.lists(st.tuples(*[st.text("ab", min_size=1, max_size=3).map(str.encode)] * 2)),
    words=st.lists(st.text("abx", min_size=1, max_size=12).map(str.encode), min_size=1),
)
def test_any_merges_of_any_tokens_are_applied_as_one_by_one(
    pairs: list[tuple[bytes, bytes]], words: list[bytes]
) -> None:
    # Many parts are made by no merge, many products by several, some before and some after.
    Rules(pairs, range(256)).check(words)


def test_a_merge_whose_part_is_made_after_it_is_applied() -> None:
    # Of a+b, 0, and x+a, 1, in "xab" the first goes first; with c+ab before both, "cab" is whole.
    rules = Rules([(b"c", b"ab"), (b"a", b"b"), (b"x", b"a")], range(256))
    rules.check([b"xab", b"cab", b"cabcab", b"xabc", b"cxab"])
    assert rules.batched.apply(*spell_long([b"cab"]))[1].tolist() == [1]


def test_a_product_joins_before_what_still_waits_if_its_merge_came_earlier() -> None:
    # When the first a+b is joined, ab+a, which is earlier, takes the a of the second one.
    rules = Rules([(b"ab", b"a"), (b"a", b"b")], range(256))
    rules.check([b"abab", b"ababab", b"aab" * 3, b"ab" * 9])
    symbols, _ = rules.batched.apply(*spell_long([b"abab"]))
    assert [rules.tokens[symbol] for symbol in symbols] == [b"aba", b"b"]


def test_a_product_of_two_merges_is_joined_after_the_later_of_them() -> None:
    pairs = [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"abc", b"d"), (b"a", b"bc"), (b"d", b"d")]
    Rules(pairs, range(256)).check([b"abcd", b"abcdd", b"bcd", b"aabcd", b"abcabcd"])


@pytest.mark.parametrize("length", [*range(1, 40), 63, 64, 65, 127, 1000])
def test_runs_join_from_the_left(length: int) -> None:
    doubling = [(b"a" * 2**k, b"a" * 2**k) for k in range(8)]
    threes = [(b"a", b"a"), (b"aa", b"a"), (b"aaa", b"aaa")]
    for pairs in (doubling, threes, doubling[:1]):
        Rules(pairs, range(256)).check(
            [b"a" * length, b"b" + b"a" * length, b"a" * length + b"b", b"a" * length + b"ba"]
        )


def one_after_another(count: int) -> list[tuple[bytes, bytes]]:
    """Merges of which only one at a time can be applied to a run: aa, aaa, aaaa, ..."""
    return [(b"a" * length, b"a") for length in range(1, count + 1)]


@pytest.mark.parametrize("rounds", [0, 1, 2, 64])
@pytest.mark.parametrize("length", [60, 64, 65, 66, 67, 130, 300])
def test_words_of_many_rounds_are_finished_too(
    monkeypatch: pytest.MonkeyPatch, rounds: int, length: int
) -> None:
    monkeypatch.setattr(_batched_encode, "_MOST_ROUNDS", rounds)
    rng = random.Random(length)
    # Here every round joins one pair, the next one of abcabc...
    text = bytes(rng.choices(b"abc", k=length))
    ladder = [(text[:end], text[end : end + 1]) for end in range(1, length)]
    rules = Rules(ladder, range(256))
    short = [bytes(rng.choices(b"abc", k=rng.randrange(1, 9))) for _ in range(30)]
    rules.check([text, *short, text + text, text[:-1], text[1:], b"x"])
    Rules(one_after_another(length), range(256)).check([b"a" * length, b"a", *short, b"aa"])


@pytest.mark.parametrize("many_done", [1, 8, 1000])
def test_words_may_finish_in_any_order(monkeypatch: pytest.MonkeyPatch, many_done: int) -> None:
    monkeypatch.setattr(_batched_encode, "_MANY_DONE", many_done)
    rng = random.Random(many_done)
    for _ in range(30):
        rules = random_rules(rng, b"ab", 20, in_order=True)
        rules.check(random_words(rng, b"abx", longest=200))


@pytest.mark.parametrize(
    "pairs",
    [
        [(b"a" * 2**k, b"a" * 2**k) for k in range(10)],
        one_after_another(100),
        [(b"a", b"a")],
        [],
        [(b"aa", b"aa"), (b"a", b"a")],
    ],
    ids=["doubling", "one_after_another", "pairs", "none", "not_in_order"],
)
def test_a_word_of_a_hundred_thousand_equal_bytes_takes_few_rounds(
    monkeypatch: pytest.MonkeyPatch, pairs: list[tuple[bytes, bytes]]
) -> None:
    rounds = 0
    join = BatchedMerges._join

    def counted(self: BatchedMerges, *pieces: np.ndarray) -> tuple[np.ndarray, ...]:
        nonlocal rounds
        rounds += 1
        return join(self, *pieces)

    monkeypatch.setattr(BatchedMerges, "_join", counted)
    Rules(pairs, range(256)).check([b"a" * 100_000, b"ab"])
    assert rounds <= 64


def test_no_merges_leave_the_bytes() -> None:
    byte_symbols = list(range(255, -1, -1))
    Rules([], byte_symbols).check([bytes(range(256)), b"a", b"\0\0"])


@pytest.mark.parametrize("pairs", [[], [(b"a", b"b")]], ids=str)
def test_no_words_have_no_symbols(pairs: list[tuple[bytes, bytes]]) -> None:
    symbols, counts = Rules(pairs, range(256)).batched.apply(*spell_long([]))
    assert len(symbols) == len(counts) == 0


def test_pieces_begin_where_no_token_reaches() -> None:
    batched = Rules([(b"a", b"b"), (b"c", b"d"), (b"ab", b"cd")], range(256)).batched
    begins = batched.begins_piece(np.frombuffer(b"abcdabbcd.\0", np.uint8))
    assert np.flatnonzero(begins).tolist() == [0, 4, 6, 9, 10]
    assert batched.begins_piece(np.empty(0, np.uint8)).tolist() == []


def test_words_do_not_join_with_the_next() -> None:
    rules = Rules([(b"a", b"b"), (b"ab", b"ab"), (b"b", b"a")], range(256))
    rules.check([b"a", b"b", b"ab", b"ab", b"b", b"a", b"b"])


def test_too_many_symbols_are_refused() -> None:
    class Many(Sequence[bytes]):
        def __len__(self) -> int:
            return MAX_SYMBOLS + 1

        def __getitem__(self, index: object) -> bytes:  # type: ignore[override]
            raise AssertionError

    with pytest.raises(
        ValueError, match=f"tokens must be at most {MAX_SYMBOLS}, got {MAX_SYMBOLS + 1}"
    ):
        BatchedMerges(Many(), range(256), {})
