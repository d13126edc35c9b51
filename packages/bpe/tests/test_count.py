"""Counting words, in this process or several."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe import CL100K, GPT2, _count
from scratch.bpe._count import count_block, count_words

BLOCKS = st.lists(st.text("ab \n<s>'1\u00e9\u4e2d", max_size=40), max_size=8)


def count_slowly(blocks: list[str], pattern: str, special_tokens: list[str]) -> Counter[bytes]:
    """The definition; these special tokens do not overlap."""
    ordinary = list(blocks)
    for token in special_tokens:
        ordinary = [part for text in ordinary for part in text.split(token)]
    return Counter(
        match.group().encode()
        for text in ordinary
        for match in regex.finditer(pattern, text)
        if match.group()
    )


@settings(deadline=None, derandomize=True, max_examples=60)
@given(blocks=BLOCKS)
@pytest.mark.parametrize("pattern", [GPT2, CL100K, r"(a)|b+", "a*"])
@pytest.mark.parametrize("special_tokens", [(), ("<s>",)], ids=["plain", "special"])
def test_counts_are_those_of_every_word(
    blocks: list[str], pattern: str, special_tokens: tuple[str, ...]
) -> None:
    counted = count_words(blocks, pattern=pattern, special_tokens=special_tokens)
    assert counted == count_slowly(blocks, pattern, list(special_tokens))


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_counts_the_same(workers: int) -> None:
    rng = random.Random(0)
    blocks = [
        "".join(rng.choices(["a", "be", " ", "\n", "<s>", "\u4e2d"], k=500)) for _ in range(20)
    ]
    counted = count_words(blocks, pattern=GPT2, special_tokens=("<s>",), workers=workers)
    assert counted == count_slowly(blocks, GPT2, ["<s>"])
    assert type(counted) is Counter


def test_special_tokens_part_words_and_count_for_nothing() -> None:
    counted = count_block("low<s>low <s>", GPT2, ("<s>",))
    assert counted == {"low": 2, " ": 1}


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_to_count_is_no_error(workers: int) -> None:
    assert count_words([], pattern=GPT2, workers=workers) == Counter()
    assert count_words(["", ""], pattern=GPT2, workers=workers) == Counter()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_among_the_blocks_reaches_the_caller(workers: int) -> None:
    def blocks() -> Iterator[str]:
        yield "a b"
        raise ValueError("not UTF-8 from here on")

    with pytest.raises(ValueError, match="not UTF-8 from here on"):
        count_words(blocks(), pattern=GPT2, workers=workers)


class InlinePool:
    """Stands in for a process pool: notes how many blocks wait for their result at once."""

    waiting = most_waiting = 0

    def __enter__(self) -> "InlinePool":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def submit(self, task: Callable[..., Counter[str]], *arguments: object) -> Future[Counter[str]]:
        pool = self

        class Counted(Future[Counter[str]]):
            def result(self, timeout: float | None = None) -> Counter[str]:
                pool.waiting -= 1
                return super().result(timeout)

        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        future = Counted()
        future.set_result(task(*arguments))
        return future


def test_few_blocks_are_under_way_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pools: list[InlinePool] = []

    def make_pool(workers: int) -> InlinePool:
        assert workers == 3
        pools.append(InlinePool())
        return pools[-1]

    monkeypatch.setattr(_count, "ProcessPoolExecutor", make_pool)
    counted = count_words(("a b" for _ in range(50)), pattern=GPT2, workers=3)
    assert counted == {b"a": 50, b" b": 50}
    assert pools[0].most_waiting == 2 * 3
    assert pools[0].waiting == 0
