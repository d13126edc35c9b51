"""Ranks and merges say the same: against the definition, and against tiktoken."""

import random
from collections.abc import Mapping, Sequence
from itertools import pairwise, product

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe import Vocabulary
from scratch.bpe._ranks import merges_from_ranks, unreached_tokens

BYTES = {byte: bytes([byte]) for byte in range(256)}

Pair = tuple[bytes, bytes]


def join_by_ranks(word: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """The definition, tiktoken's: any two parts may join that are a token together."""
    if word in ranks:
        return [word]
    parts = [bytes([byte]) for byte in word]
    while found := [
        (ranks[left + right], index)
        for index, (left, right) in enumerate(pairwise(parts))
        if left + right in ranks
    ]:
        _, index = min(found)
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return parts


def join_by_merges(
    word: bytes, merges: Sequence[Pair], whole_words: Sequence[bytes] = ()
) -> list[bytes]:
    """The definition, ours: only the pairs that are listed may join, the first one first."""
    if word in whole_words:
        return [word]
    parts = [bytes([byte]) for byte in word]
    while found := [
        (merges.index(pair), index) for index, pair in enumerate(pairwise(parts)) if pair in merges
    ]:
        _, index = min(found)
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return parts


@st.composite
def rank_tables(draw: st.DrawFn) -> dict[bytes, int]:
    """Tokens over few letters in any order of rank, most of them with parts that are tokens."""
    letters = draw(st.sampled_from([b"a", b"ab", b"abc"]))
    tokens = [bytes([letter]) for letter in letters]
    for _ in range(draw(st.integers(0, 12))):
        if draw(st.integers(0, 3)):
            left, right = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
            tokens.append(left + right)
        else:
            tokens.append(bytes(draw(st.lists(st.sampled_from(letters), min_size=1, max_size=6))))
    distinct = list(dict.fromkeys(tokens))
    ranks = draw(st.lists(st.integers(0, 99), min_size=99, max_size=99, unique=True))
    return dict(zip(distinct, ranks, strict=False))


@settings(deadline=None, derandomize=True, max_examples=240)
@given(ranks=rank_tables(), data=st.data())
def test_any_word_joins_the_same_by_ranks_and_by_merges(
    ranks: dict[bytes, int], data: st.DataObject
) -> None:
    merges, whole_words = merges_from_ranks(ranks)
    letters = sorted({byte for token in ranks for byte in token})
    word = bytes(data.draw(st.lists(st.sampled_from(letters), max_size=24)))
    for each in (word, *ranks, *(a + b for a, b in pairwise(ranks))):
        assert join_by_merges(each, merges, whole_words) == join_by_ranks(each, ranks)


@pytest.mark.parametrize("seed", range(40))
def test_all_short_words_join_the_same_whatever_the_order_of_ranks(seed: int) -> None:
    rng = random.Random(seed)
    words = [bytes(w) for length in range(1, 8) for w in product(b"ab", repeat=length)]
    tokens = [b"a", b"b", *rng.sample([w for w in words if 2 <= len(w) <= 5], k=14)]
    ranks = dict(zip(tokens, rng.sample(range(1000), k=len(tokens)), strict=True))
    merges, whole_words = merges_from_ranks(ranks)
    for word in words:
        assert join_by_merges(word, merges, whole_words) == join_by_ranks(word, ranks)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(ranks=rank_tables(), data=st.data())
def test_any_word_joins_as_in_tiktoken(ranks: dict[bytes, int], data: st.DataObject) -> None:
    ranks = {token: 1000 + rank for token, rank in ranks.items() if len(token) > 1}
    ranks |= {byte: number for number, byte in BYTES.items()}
    encoding = tiktoken.Encoding("test", pat_str="(?s).+", mergeable_ranks=ranks, special_tokens={})
    merges, whole_words = merges_from_ranks(ranks)
    words = data.draw(st.lists(st.text("abc", min_size=1, max_size=150), min_size=1, max_size=4))
    for word in [*words, *(token.decode() for token in ranks if len(token) > 1)]:
        ours = join_by_merges(word.encode(), merges, whole_words)
        assert [ranks[part] for part in ours] == encoding.encode_ordinary(word)


@settings(deadline=None, derandomize=True, max_examples=120)
@given(ranks=rank_tables())
def test_each_token_has_one_merge_or_is_a_whole_word(ranks: dict[bytes, int]) -> None:
    merges, whole_words = merges_from_ranks(ranks)
    products = [left + right for left, right in merges]
    assert sorted(products + whole_words) == sorted(token for token in ranks if len(token) > 1)
    assert products == sorted(products, key=ranks.__getitem__)
    assert whole_words == sorted(whole_words, key=ranks.__getitem__)


@settings(deadline=None, derandomize=True, max_examples=120)
@given(ranks=rank_tables())
def test_what_merges_do_not_reach_are_the_whole_words(ranks: dict[bytes, int]) -> None:
    longer = [token for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1]
    merges, whole_words = merges_from_ranks(ranks)
    tokens = BYTES | dict(enumerate(longer, start=256))
    assert unreached_tokens(Vocabulary(tokens, tuple(merges))) == whole_words


@settings(deadline=None, derandomize=True, max_examples=120)
@given(ranks=rank_tables(), data=st.data())
def test_what_merges_do_not_reach_follows_the_definition(
    ranks: dict[bytes, int], data: st.DataObject
) -> None:
    # Merges in any order, some for the same product, as no ranks would have them.
    pairs = [(a, b) for a in ranks for b in ranks if a + b in ranks]
    merges = data.draw(st.permutations(pairs)) if pairs else []
    longer = [token for token in ranks if len(token) > 1]
    vocabulary = Vocabulary(BYTES | dict(enumerate(longer, start=256)), tuple(merges))
    unreached = [token for token in longer if len(join_by_merges(token, merges)) > 1]
    assert unreached_tokens(vocabulary) == unreached


def test_a_worked_example() -> None:
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"bc": 3, b"ab": 4, b"abc": 5, b"abcab": 6}
    merges = [(b"b", b"c"), (b"a", b"b"), (b"a", b"bc"), (b"abc", b"ab")]
    assert merges_from_ranks(ranks) == (merges, [])


def test_a_token_that_its_parts_never_make_is_a_whole_word() -> None:
    # b and c join first; then a, bc and d have no token together but all three.
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"d": 3, b"bc": 4, b"ab": 5, b"cd": 6, b"abcd": 7}
    merges = [(b"b", b"c"), (b"a", b"b"), (b"c", b"d")]
    assert merges_from_ranks(ranks) == (merges, [b"abcd"])


def test_a_part_may_have_a_higher_rank_than_its_product() -> None:
    ranks = {b"a": 9, b"b": 8, b"ab": 7, b"abab": 1, b"ababab": 0}
    merges = [(b"abab", b"ab"), (b"ab", b"ab"), (b"a", b"b")]
    assert merges_from_ranks(ranks) == (merges, [])
    assert join_by_ranks(b"abababab", ranks) == join_by_merges(b"abababab", merges)


def test_nothing_has_no_merges() -> None:
    assert merges_from_ranks({}) == ([], [])
    assert merges_from_ranks({b"a": 5}) == ([], [])


def test_the_merges_of_a_trained_vocabulary_come_back(vocabulary: Vocabulary) -> None:
    specials = {token.encode() for token in vocabulary.special_tokens}
    ranks = {token: id_ for id_, token in vocabulary.tokens.items() if token not in specials}
    merges, whole_words = merges_from_ranks(ranks)
    assert tuple(merges) == vocabulary.merges
    assert whole_words == []


def test_long_runs_are_split_where_the_definition_splits_them() -> None:
    # As the runs of spaces in cl100k: every length up to a hundred, ranked at random.
    rng = random.Random(0)
    lengths = range(1, 101)
    ranks = dict(zip((b" " * n for n in lengths), rng.sample(lengths, k=100), strict=True))
    merges, whole_words = merges_from_ranks(ranks)
    for length in range(1, 200, 7):
        word = b" " * length
        assert join_by_merges(word, merges, whole_words) == join_by_ranks(word, ranks)


def test_a_token_of_a_hundred_thousand_bytes_takes_no_quadratic_time() -> None:
    ranks = {b"a" * 2**power: power for power in range(18)}
    merges, whole_words = merges_from_ranks(ranks)
    assert whole_words == []
    assert merges[-1] == (b"a" * 2**16, b"a" * 2**16)


def test_two_tokens_of_one_rank_are_refused() -> None:
    with pytest.raises(ValueError, match="ranks must be distinct, got 5 for b'a' and b'b'"):
        merges_from_ranks({b"a": 5, b"c": 1, b"b": 5})
