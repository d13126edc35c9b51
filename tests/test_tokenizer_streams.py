"""Contract: encoding a stream equals encoding the joined text, lazily and in bounded memory."""

import tracemalloc
from collections.abc import Iterator
from itertools import islice, pairwise, repeat
from types import GeneratorType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .adapters import get_tokenizer
from .texts import EOT, NASTY, UNICODE, Trained, sample_text

BYTES = {byte: bytes([byte]) for byte in range(256)}


def chunks_of(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(0, len(text), size))


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    text=st.one_of(NASTY, UNICODE, st.text("ab \n<|>", max_size=80)),
    cuts=st.lists(st.integers(0, 200), max_size=30) | st.just(range(200)),
)
@pytest.mark.parametrize("special_tokens", [None, [EOT, "<|", EOT + EOT, "b \n", "<<"]], ids=str)
def test_a_stream_has_the_ids_of_the_joined_text(
    trained: Trained, special_tokens: list[str] | None, text: str, cuts: list[int]
) -> None:
    tokenizer = get_tokenizer(*trained, special_tokens)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    chunks = [text[start:end] for start, end in pairwise(places)]
    assert list(tokenizer.encode_iterable(chunks)) == tokenizer.encode(text)


@pytest.mark.parametrize("size", [1, 997, 2**16, 2**16 + 1, 10**9])
def test_a_long_stream_has_the_ids_of_the_joined_text(trained: Trained, size: int) -> None:
    text = sample_text(seed=4, fragments=120_000, special_tokens=[EOT])
    tokenizer = get_tokenizer(*trained, [EOT, EOT + EOT])
    assert list(tokenizer.encode_iterable(chunks_of(text, size))) == tokenizer.encode(text)


@pytest.mark.parametrize("unit", [EOT + " \n", "a\r\n \n", "lower  ", "a \u3000\u00a0 🙃'll"])
def test_no_place_to_hold_a_stream_changes_its_ids(trained: Trained, unit: str) -> None:
    tokenizer = get_tokenizer(*trained, [EOT, EOT + " ", EOT + EOT])
    for shift in range(len(unit)):
        text = unit[shift:] + unit * (70_000 // len(unit))
        assert list(tokenizer.encode_iterable(chunks_of(text, 4096))) == tokenizer.encode(text)


@pytest.mark.parametrize("letter", ["a", " ", "\n", "🙃"])
def test_a_run_longer_than_any_buffer_is_one_pre_token(trained: Trained, letter: str) -> None:
    text = "low " + letter * (270_000 // len(letter.encode())) + " lower"
    tokenizer = get_tokenizer(*trained, [EOT])
    assert list(tokenizer.encode_iterable(chunks_of(text, 10_000))) == tokenizer.encode(text)


def test_a_custom_pattern_streams_and_loses_nothing(trained: Trained) -> None:
    # What the pattern leaves out, here all but runs of two or more letters, goes byte by byte.
    text = sample_text(seed=5, fragments=2_000, special_tokens=[EOT])
    tokenizer_type = type(get_tokenizer(*trained))
    tokenizer = tokenizer_type(*trained, [EOT], pattern=r"\p{L}{2,}")
    ids = tokenizer.encode(text)
    assert list(tokenizer.encode_iterable(chunks_of(text, 10))) == ids
    assert tokenizer.decode(ids) == text
    byte_ids = {token: id_ for id_, token in trained.vocab.items()}
    assert tokenizer.encode("!?... é") == [byte_ids[bytes([b])] for b in "!?... é".encode()]


def test_a_custom_pattern_is_not_cut_at_spaces() -> None:
    tokenizer_type = type(get_tokenizer(BYTES, []))
    tokenizer = tokenizer_type(BYTES | {256: b"a "}, [(b"a", b" ")], pattern="[a ]+")
    assert list(tokenizer.encode_iterable(repeat("a ", 100_000))) == [256] * 100_000


def test_a_stream_is_a_lazy_generator(trained: Trained) -> None:
    read: list[str] = []

    def lines() -> Iterator[str]:
        for line in repeat("low lower\n"):
            read.append(line)
            yield line

    tokenizer = get_tokenizer(*trained)
    stream = tokenizer.encode_iterable(lines())
    assert isinstance(stream, GeneratorType)
    assert read == []
    assert list(islice(stream, 30)) == tokenizer.encode("low lower\n" * 30)[:30]


def peak_bytes(ids: Iterator[int]) -> int:
    tracemalloc.start()
    try:
        for _ in ids:
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_longer_stream_takes_no_more_memory(trained: Trained) -> None:
    tokenizer = get_tokenizer(*trained, [EOT])
    lines = sample_text(seed=6, fragments=30_000, special_tokens=[EOT]).splitlines(keepends=True)
    short, long = (
        peak_bytes(tokenizer.encode_iterable(line for _ in range(times) for line in lines))
        for times in (2, 10)
    )
    assert long < 1.5 * short


@pytest.mark.parametrize("filler", ["é ", "aé" * 500 + EOT, "é"])
def test_a_stream_counts_the_index_of_a_surrogate_over_all_its_chunks(filler: str) -> None:
    before = filler * (100_000 // len(filler))
    stream = get_tokenizer(BYTES, [], [EOT]).encode_iterable(chunks_of(before + "a\ud800b", 1000))
    with pytest.raises(ValueError, match=rf"\b{len(before) + 1}\b"):
        list(stream)
