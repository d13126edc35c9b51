"""A hash table of pairs, against a dictionary."""

import random

import numpy as np
import pytest

from scratch.bpe import _merge_table
from scratch.bpe._merge_table import MAX_SYMBOLS, NO_MERGE, NO_SYMBOL, MergeTable

Pairs = dict[tuple[int, int], int]


def table_of(ranks: Pairs) -> MergeTable:
    pairs = np.array(list(ranks), np.int32).reshape(-1, 2)
    return MergeTable(pairs[:, 0], pairs[:, 1], np.array(list(ranks.values()), np.int32))


def check(ranks: Pairs, asked: list[tuple[int, int]]) -> None:
    found = look_up(table_of(ranks), asked)
    assert found == [ranks.get(pair, int(NO_MERGE)) for pair in asked]


def look_up(table: MergeTable, asked: list[tuple[int, int]]) -> list[int]:
    left, right = np.array(asked, np.int32).reshape(-1, 2).T
    found = table.ranks(left, right)
    assert found.dtype == np.int32
    return found.tolist()


def random_pairs(rng: random.Random, symbols: int, count: int) -> Pairs:
    pairs = {(rng.randrange(symbols), rng.randrange(symbols)) for _ in range(count)}
    return {pair: rank for rank, pair in enumerate(rng.sample(sorted(pairs), k=len(pairs)))}


@pytest.mark.parametrize("symbols", [1, 2, 3, 30, 256, 5000, MAX_SYMBOLS])
@pytest.mark.parametrize("count", [0, 1, 2, 10, 1000, 20_000])
def test_ranks_are_those_of_a_dictionary(symbols: int, count: int) -> None:
    rng = random.Random(symbols + count)
    ranks = random_pairs(rng, symbols, count)
    near = [(left + 1, right) for left, right in ranks] + [(right, left) for left, right in ranks]
    near = [(min(left, MAX_SYMBOLS - 1), right) for left, right in near]
    check(ranks, [*ranks, *near, *random_pairs(rng, symbols, 1000)])


def test_every_pair_of_bytes_has_its_rank() -> None:
    everything = [(left, right) for left in range(256) for right in range(256)]
    check({pair: rank for rank, pair in enumerate(everything)}, everything)


def test_the_greatest_symbols_and_ranks_fit() -> None:
    most = MAX_SYMBOLS - 1
    corners = [(0, 0), (0, most), (most, 0), (most, most)]
    check(dict(zip(corners, [0, 2**22 - 1, 1, 2**22 - 2], strict=True)), [*corners, (1, most)])
    check({(most, most): 2**22 - 1}, corners)


def test_what_stands_between_words_is_in_no_pair() -> None:
    ranks = {(left, right): 300 * left + right for left in range(300) for right in range(300)}
    none = int(NO_SYMBOL)
    pairs = [pair for symbol in (0, 1, 299, 300) for pair in ((symbol, none), (none, symbol))]
    check(ranks, pairs)
    check({}, pairs)


def test_the_end_of_one_word_and_of_the_next_are_no_pair() -> None:
    check({(0, 0): 0}, [(int(NO_SYMBOL), int(NO_SYMBOL))])


def test_pairs_whose_places_collide_make_the_table_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    # One place for all of them, and one of few: there is room only once the table has 2^13 places.
    monkeypatch.setattr(_merge_table, "_FACTORS", (np.uint64(1), np.uint64(2**50)))
    ranks = {(0, right): right for right in range(12)}
    check(ranks, [*ranks, (1, 0), (0, 12), (1, 5)])


def test_the_table_stays_small() -> None:
    rng = random.Random(0)
    for count in (10, 1000, 50_000):
        table = table_of(random_pairs(rng, 50_000, count))
        assert sum(map(len, table._places)) <= max(2**9, 24 * count)


def test_asking_for_nothing_gives_nothing() -> None:
    assert look_up(table_of({(1, 2): 3}), []) == []
    assert look_up(table_of({}), []) == []
