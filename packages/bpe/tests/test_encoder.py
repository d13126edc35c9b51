"""Ids of whole windows, from tables that forget, against those of the plain form."""

import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe import CL100K, GPT2, O200K, Vocabulary, _word_ids
from scratch.bpe._batched_encode import BatchedMerges
from scratch.bpe._encode import PlainEncoder
from scratch.bpe._encoder import Encoder
from scratch.bpe._words import Window, WordScanner, join_texts

LIMITS = ("_SHORT_BITS", "_MEDIUM_BITS", "_LONG_WORDS", "_LONG_BYTES", "_MOST_SPAN_IDS")
ROOMY = (17, 17, 2**16, 128, 2**21)
TINY = [(1, 1, 1, 20, 0), (2, 1, 3, 30, 10), (4, 3, 2, 300, 40), (1, 2, 0, 0, 2**21), ROOMY]
EACH_TINY = pytest.mark.parametrize("limits", TINY, ids=str)


class Both:
    """The array form and the plain form of encoding with one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.plain = plain = PlainEncoder(vocabulary)
        self.scanner = WordScanner(vocabulary.pattern, vocabulary.special_tokens)
        symbols = {token_id: symbol for symbol, token_id in enumerate(plain.ids.values())}
        merges = {
            (symbols[left], symbols[right]): (rank, symbols[product])
            for (left, right), (rank, product) in plain.merges.items()
        }
        tokens = list(plain.ids)
        self.encoder = Encoder(
            tokens,
            np.fromiter(symbols, np.uint32, len(symbols)),
            BatchedMerges(tokens, [symbols[each] for each in plain.byte_ids], merges),
            plain.whole_words,
            list(plain.special_ids.values()),
        )

    def encode(self, text: str, *, window_bytes: int = 64, at_once: int = 3) -> list[int]:
        windows = self.scanner.windows([text.encode()], window_bytes=window_bytes)
        ids: list[int] = []
        for of_window in self.encoder.encode(windows, at_once=at_once):
            assert of_window.dtype == np.uint32
            assert len(of_window) > 0
            ids += of_window.tolist()
        return ids

    def check(self, text: str, **sizes: int) -> None:
        assert self.encode(text, **sizes) == self.plain.encode(text), text


@contextmanager
def limited(limits: Sequence[int]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, limit in zip(LIMITS, limits, strict=True):
            patch.setattr(_word_ids, name, limit)
        yield


def random_vocabulary(rng: random.Random, pattern: str = GPT2) -> Vocabulary:
    """Merges in order or not, ids with gaps, in any order, two that spell the same, whole words."""
    letters = [letter.encode() for letter in rng.choice(["ab ", "abc '\n", "a\u4e2d ", "ab1\0 "])]
    parts = [bytes([byte]) for byte in sorted({byte for letter in letters for byte in letter})]
    merges: list[tuple[bytes, bytes]] = []
    for _ in range(rng.choice([0, 5, 30])):
        left, right = rng.choice(parts), rng.choice(parts)
        merges.append((left, right))
        parts.append(left + right)
    if rng.random() < 0.3:
        rng.shuffle(merges)
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += list(dict.fromkeys(left + right for left, right in merges))
    whole: list[bytes] = []
    if rng.random() < 0.5:
        words = {b"".join(rng.choices(letters, k=rng.randrange(2, 20))) for _ in range(9)}
        whole = rng.sample(sorted(words | {b" ab", b"aa"}), k=5)
        tokens += [word for word in whole if word not in tokens]
    specials = [special for special in ("<s>", "<s>a", "\u4e2d<|end|>") if rng.random() < 0.5]
    tokens += [special.encode() for special in specials]
    tokens += rng.choices(tokens, k=rng.choice([0, 3]))
    ids = rng.sample(range(len(tokens) * rng.choice([1, 3]) + 5), k=len(tokens))
    if rng.random() < 0.1:
        ids[-1] = 2**31 - 1
    rng.shuffle(specials)
    return Vocabulary(
        dict(zip(ids, tokens, strict=True)), tuple(merges), tuple(specials), pattern, tuple(whole)
    )


def random_text(rng: random.Random, chars: int) -> str:
    pieces = ["a", "b", "ab", " ", "  ", "\n", "'s", "1", "\0", "\u4e2d", "<s>", "<s>a", "x"]
    pieces += ["\u4e2d<|end|>", "aaaaaaaa", "b" * 40, "ab" * 100, "\U0001f600", "!", "\u3000"]
    weights = [rng.random() ** 3 for _ in pieces]
    text = "".join(rng.choices(pieces, weights, k=chars))
    return text[:chars]


@EACH_TINY
@pytest.mark.parametrize("seed", range(8))
def test_ids_are_those_of_the_plain_form_however_small_the_tables(
    limits: Sequence[int], seed: int
) -> None:
    rng = random.Random(seed)
    with limited(limits):
        both = Both(random_vocabulary(rng, rng.choice([GPT2, CL100K, O200K, r"[ab]+|\s+(\S)?"])))
        for _ in range(12):
            both.check(
                random_text(rng, rng.choice([1, 10, 100, 400])),
                window_bytes=rng.choice([4, 16, 64, 1000]),
                at_once=rng.choice([1, 2, 16]),
            )


@pytest.mark.slow
@EACH_TINY
@pytest.mark.parametrize("seed", range(1000, 1060))
def test_ids_of_many_texts_are_those_of_the_plain_form(limits: Sequence[int], seed: int) -> None:
    test_ids_are_those_of_the_plain_form_however_small_the_tables(limits, seed)


@EACH_TINY
def test_ids_of_a_trained_vocabulary_are_those_of_the_plain_form(
    vocabulary: Vocabulary, corpus: str, limits: Sequence[int]
) -> None:
    with limited(limits):
        both = Both(vocabulary)
        for text in (corpus[:20_000], corpus[5_000:25_000], corpus.upper()[:20_000]):
            both.check(text, window_bytes=1000)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6))
@pytest.mark.parametrize("limits", [TINY[0], TINY[2], ROOMY], ids=str)
def test_any_text_has_the_ids_of_the_plain_form(
    vocabulary: Vocabulary, limits: Sequence[int], texts: list[str]
) -> None:
    with limited(limits):
        both = both_of(vocabulary, limits)
        for text in texts:
            both.check(text)


_MADE: dict[tuple[int, ...], Both] = {}


def both_of(vocabulary: Vocabulary, limits: Sequence[int]) -> Both:
    """Made once for each of the limits, so that the tables fill."""
    if tuple(limits) not in _MADE:
        _MADE[tuple(limits)] = Both(vocabulary)
    return _MADE[tuple(limits)]


@EACH_TINY
def test_a_separator_has_no_ids(limits: Sequence[int]) -> None:
    rng = random.Random(3)
    with limited(limits):
        for _ in range(20):
            both = Both(random_vocabulary(rng))
            texts = [random_text(rng, rng.choice([0, 0, 1, 5, 60])) for _ in range(12)]
            buffer, separators = join_texts([text.encode() for text in texts])
            window = both.scanner.scan(buffer, separators=separators)
            ids, ends = both.encoder.encode_parted(window)
            stops = ends.tolist()
            starts = [0, *stops[:-1]]
            found = [ids[start:stop].tolist() for start, stop in zip(starts, stops, strict=True)]
            assert found == [both.plain.encode(text) for text in texts]


def test_a_whole_word_is_one_id_and_its_pieces_are_not() -> None:
    tokens = [bytes([byte]) for byte in range(256)]
    words = [b"ab", b"abcdefgh", b"abcdefghijklmnop", b" ab"]
    vocabulary = Vocabulary(dict(enumerate(tokens + words)), (), (), GPT2, tuple(words))
    both = Both(vocabulary)
    for text in ("ab", "abc", "ab!ab", "abcdefgh abcdefghi", "abcdefghijklmnop ab  ab", "abab"):
        both.check(text)
        both.check(text)
    assert both.encode("ab abcdefgh") == [256, 32, *b"abcdefgh"]


def test_of_two_ids_that_spell_the_same_the_lower_one_is_used() -> None:
    tokens = {1000 - byte: bytes([byte]) for byte in range(256)}
    tokens |= {7: b"ab", 3: b"ab", 2000: b"a", 5: b"<s>", 4: b"<s>"}
    both = Both(Vocabulary(tokens, ((b"a", b"b"),), ("<s>",)))
    assert both.encode("ab<s>a") == [3, 4, 1000 - ord("a")]
    both.check("ab<s>a b ab")


def test_ids_may_be_as_great_as_31_bits() -> None:
    most = 2**31 - 1
    tokens = {most - byte: bytes([byte]) for byte in range(256)} | {5: b"ab"}
    both = Both(Vocabulary(tokens, ((b"a", b"b"),)))
    assert both.encode("\0ab\0") == [most, 5, most]


def test_no_windows_have_no_ids(vocabulary: Vocabulary) -> None:
    both = Both(vocabulary)
    assert list(both.encoder.encode([])) == []
    (ids,) = both.encoder.encode([both.scanner.scan(b"")])
    assert len(ids) == 0
    ids, stops = both.encoder.encode_parted(both.scanner.scan(b""))
    assert len(ids) == len(stops) == 0


def test_windows_are_taken_as_they_are_wanted(vocabulary: Vocabulary) -> None:
    both, taken = Both(vocabulary), 0

    def windows() -> Iterator[Window]:
        nonlocal taken
        while True:
            taken += 1
            yield both.scanner.scan(b"low lower")

    encoded = both.encoder.encode(windows(), at_once=3)
    for number in range(1, 10):
        next(encoded)
        assert taken == 3 * -(-number // 3)


@EACH_TINY
def test_who_makes_the_windows_may_use_the_encoder(limits: Sequence[int]) -> None:
    # So words may be encoded, and tables made anew, between the windows of one batch.
    rng = random.Random(0)
    with limited(limits):
        for _ in range(8):
            both = Both(random_vocabulary(rng))
            text = random_text(rng, 300)

            def windows(both: Both = both, text: str = text) -> Iterator[Window]:
                for window in both.scanner.windows([text.encode()], window_bytes=30):
                    start = rng.randrange(len(text))
                    both.check(text[start : start + 40] + random_text(rng, 20))
                    yield window

            found = [ids for part in both.encoder.encode(windows(), at_once=5) for ids in part]
            assert found == both.plain.encode(text)


@EACH_TINY
def test_encodings_under_way_at_the_same_time_do_not_disturb_one_another(
    limits: Sequence[int],
) -> None:
    rng = random.Random(1)
    with limited(limits):
        both = Both(random_vocabulary(rng))
        texts = [random_text(rng, 300) for _ in range(6)]
        windows = [both.scanner.windows([text.encode()], window_bytes=30) for text in texts]
        under_way = [both.encoder.encode(each, at_once=2) for each in windows]
        found: list[list[int]] = [[] for _ in texts]
        waiting = list(range(len(texts)))
        while waiting:
            number = rng.choice(waiting)
            part = next(under_way[number], None)
            if part is None:
                waiting.remove(number)
            else:
                found[number] += part.tolist()
        assert found == [both.plain.encode(text) for text in texts]


def test_an_error_among_the_windows_leaves_the_encoder_usable(vocabulary: Vocabulary) -> None:
    both = Both(vocabulary)

    def windows() -> Iterator[Window]:
        yield both.scanner.scan(b"low")
        raise ValueError("not UTF-8 from here on")

    with pytest.raises(ValueError, match="not UTF-8 from here on"):
        list(both.encoder.encode(windows()))
    both.check("low lower")


def table_bytes(encoder: Encoder) -> int:
    """All that grows with what has been encoded."""
    tables = encoder._tables
    spans = (tables._span_begins, tables._span_lengths, tables._span_ids)
    return sum(column.nbytes for column in spans) + 100 * len(tables._long)


def test_memory_is_bounded_whatever_is_encoded() -> None:
    rng = random.Random(0)
    with limited((4, 4, 50, 128, 2000)):
        both = Both(random_vocabulary(random.Random(1)))
        sizes: list[int] = []
        for _ in range(150):
            words = (
                "".join(rng.choices("abcdefgh", k=rng.choice([5, 12, 30]))) for _ in range(100)
            )
            both.check(" ".join(words), window_bytes=10_000)
            sizes.append(table_bytes(both.encoder))
        assert max(sizes[30:]) <= 2 * max(sizes[:30])


def test_few_long_words_are_kept_and_none_that_is_very_long() -> None:
    rng = random.Random(0)
    with limited((4, 4, 50, 30, 2**30)):
        both = Both(random_vocabulary(random.Random(1)))
        for _ in range(60):
            words = [
                "".join(rng.choices("abcdefgh", k=rng.choice([20, 30, 31]))) for _ in range(30)
            ]
            both.check(" ".join(words), window_bytes=10_000)
            assert len(both.encoder._tables._long) <= 50
            assert max(map(len, both.encoder._tables._long)) <= 30


@pytest.mark.parametrize("limits", [(1, 1, 1, 20, 2**21), TINY[2], ROOMY], ids=str)
def test_threads_get_the_ids_of_the_plain_form(
    monkeypatch: pytest.MonkeyPatch,
    vocabulary: Vocabulary,
    corpus: str,
    limits: Sequence[int],
) -> None:
    with_room = _word_ids._with_room

    def slowly(column: np.ndarray, size: int) -> np.ndarray:
        time.sleep(1e-4)  # in the midst of a change, so that other threads have their turn
        return with_room(column, size)

    monkeypatch.setattr(_word_ids, "_with_room", slowly)
    rng = random.Random(0)
    texts = [corpus[start : start + 2000] for start in range(0, 12_000, 4000)]
    texts += [" ".join(corpus[at : at + 9] for at in rng.choices(range(9000), k=60)) for _ in "abc"]
    with limited(limits):
        both = Both(vocabulary)
        expected = [both.plain.encode(text) for text in texts]
        barrier = threading.Barrier(4)

        def encode_all(first: int) -> list[list[int]]:
            barrier.wait(timeout=60)
            return [both.encode(text, window_bytes=500) for text in texts[first:] + texts[:first]]

        with ThreadPoolExecutor(4) as pool:
            for first, found in zip(range(4), pool.map(encode_all, range(4)), strict=True):
                assert found == expected[first:] + expected[:first]


def in_a_fork(both: Both, text: str) -> list[int] | None:
    """Encode in a forked child, which is given up if it hangs."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            threading.Timer(20, os._exit, [1]).start()
            os.write(writing, np.array(both.encode(text), np.int64).tobytes())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as result:
        data = result.read()
    os.waitpid(child, 0)
    return np.frombuffer(data, np.int64).tolist() if data else None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork needs fork")
@pytest.mark.parametrize("held", [False, True], ids=["free", "held"])
def test_a_forked_child_encodes_although_a_thread_of_its_parent_holds_the_lock(
    vocabulary: Vocabulary, held: bool
) -> None:
    both = Both(vocabulary)
    text = "the old qxzjkv daughter <|endoftext|> zzzqqq"
    assert len(both.plain.encode(text)) > 10  # there are words of several ids, which are in spans
    both.encode(text)
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        with both.encoder._lock:
            # As in the midst of a change: what the tables hold is not to be trusted.
            both.encoder._tables._span_ids[:] = 0
            locked.set()
            done.wait(timeout=60)

    thread = threading.Thread(target=hold)
    if held:
        thread.start()
        assert locked.wait(timeout=60)
    try:
        assert in_a_fork(both, text) == both.plain.encode(text)
    finally:
        done.set()
        if held:
            thread.join()


def test_encoders_of_different_vocabularies_do_not_mix() -> None:
    rng = random.Random(5)
    many = [Both(random_vocabulary(rng)) for _ in range(6)]
    for _ in range(5):
        text = random_text(rng, 100)
        for both in many:
            both.check(text)
