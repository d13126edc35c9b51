"""Ids to bytes, whatever holds the ids, and to text as they come."""

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch.bpe import StreamDecoder, Tokenizer
from scratch.bpe._decode import Decoder

BYTES = {byte: bytes([byte]) for byte in range(256)}
# Tokens that begin, go on with, or end characters of two, three and four bytes, or none.
TOKENS = [
    *BYTES.values(),
    b"low",
    b" " * 300,
    "\u4e2d\U0001f600".encode(),
    "\u4e2d".encode()[:2],
    "\u4e2d".encode()[1:],
    "\U0001f600".encode()[:3],
    "\U0001f600".encode()[1:],
    "e\u0301".encode()[:2],
    b"\xed\xa0\x80",
    b"\xff\xfe\xc0",
    b"a\xf0",
    "\ufeff".encode(),
]
DENSE = dict(enumerate(TOKENS))
SPARSE = {3 * token_id + 2: token for token_id, token in DENSE.items()} | {2**31 - 1: b"last"}
KINDS = pytest.mark.parametrize("tokens", [DENSE, SPARSE], ids=["dense", "with_gaps"])
Tokens = dict[int, bytes]

INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
FEW, MANY = 3, 200
"""Numbers of ids on both sides of where arrays begin to pay."""

HOLDERS: list[Callable[[list[int]], Any]] = [
    list,
    tuple,
    iter,
    lambda ids: (token_id for token_id in ids),
    np.array,
    lambda ids: list(np.array(ids, np.int64)),
    lambda ids: np.array(ids, object),
    lambda ids: np.array([0, *ids, 0])[1:-1],
    lambda ids: np.array(ids).repeat(2)[::2],
    lambda ids: np.array(ids, ">i8"),
]
NAMES = ["list", "tuple", "iterator", "generator", "array", "scalars", "objects", "view", "strided"]
HELD = pytest.mark.parametrize("held", HOLDERS, ids=[*NAMES, "big_endian"])


def random_ids(tokens: Tokens, count: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(sorted(tokens), k=count)


def join(tokens: Tokens, ids: Iterable[int]) -> bytes:
    return b"".join(tokens[token_id] for token_id in ids)


@KINDS
@HELD
@pytest.mark.parametrize("count", [0, 1, FEW, 63, 64, 65, MANY, 70_000])
def test_bytes_are_those_of_the_tokens_joined(
    tokens: Tokens, held: Callable[[list[int]], Any], count: int
) -> None:
    ids = random_ids(tokens, count)
    assert Decoder(tokens).decode_bytes(held(ids)) == join(tokens, ids)


@KINDS
@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("count", [0, FEW, MANY])
def test_arrays_of_every_integer_are_decoded(
    tokens: Tokens, dtype: type[np.integer[Any]], count: int
) -> None:
    fitting = {id_: token for id_, token in tokens.items() if id_ <= np.iinfo(dtype).max}
    ids = random_ids(fitting, count)
    array = np.array(ids, dtype)
    assert Decoder(tokens).decode_bytes(array) == join(tokens, ids)
    assert array.tolist() == ids


@settings(deadline=None, derandomize=True, max_examples=200)
@given(ids=st.lists(st.sampled_from(sorted(DENSE)), max_size=300), as_array=st.booleans())
def test_any_ids_are_decoded(ids: list[int], as_array: bool) -> None:
    held: Any = np.array(ids, np.uint16) if as_array else ids
    assert Decoder(DENSE).decode_bytes(held) == join(DENSE, ids)


def test_tokens_may_be_given_in_any_order() -> None:
    ids = random_ids(DENSE, MANY)
    backwards = dict(reversed(DENSE.items()))
    assert Decoder(backwards).decode_bytes(np.array(ids)) == join(DENSE, ids)


@KINDS
def test_one_more_than_the_greatest_id_is_the_size(tokens: Tokens) -> None:
    assert Decoder(tokens).vocab_size == max(tokens) + 1


class Whole:
    """A whole number of a kind of its own."""

    def __index__(self) -> int:
        return 97


@pytest.mark.parametrize("one", [97, True, np.uint8(97), np.int64(97), np.array(97), Whole()])
def test_one_id_may_be_any_whole_number(one: Any) -> None:
    decoder = Decoder(BYTES)
    expected = b"\1" if one is True else b"a"
    assert decoder.token_bytes(one) == expected
    assert decoder.decode_bytes([one]) == expected
    assert decoder.decode_bytes([one] * MANY) == expected * MANY
    assert decoder.decode_bytes([98, one] * MANY) == (b"b" + expected) * MANY


@KINDS
@HELD
@pytest.mark.parametrize("count", [FEW, MANY])
@pytest.mark.parametrize("bad", [-1, -(2**31), 2**31, 2**40, 2**63 - 1, -(2**63)])
def test_the_first_id_that_the_vocabulary_lacks_is_named(
    tokens: Tokens, held: Callable[[list[int]], Any], count: int, bad: int
) -> None:
    ids = random_ids(tokens, count)
    ids[1:1] = [bad]
    ids[-1:] = [-7]
    greatest = max(tokens)
    message = rf"ids must be in the vocabulary of {len(tokens)} tokens \(0 to {greatest}\), got"
    with pytest.raises(ValueError, match=rf"^{message} {bad}$"):
        Decoder(tokens).decode_bytes(held(ids))


@pytest.mark.parametrize("bad", [len(DENSE), len(DENSE) + 1, -1])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64])
def test_the_ids_next_to_the_vocabulary_are_not_in_it(bad: int, dtype: type) -> None:
    with pytest.raises(ValueError, match=f"got {bad}$"):
        Decoder(DENSE).decode_bytes(np.array([*range(100), bad, *range(100)], dtype))
    with pytest.raises(ValueError, match=f"got {bad}$"):
        Decoder(DENSE).decode_bytes([*range(100), bad, *range(100)])


@pytest.mark.parametrize("between", [0, 1, 3, 4, 300])
def test_an_id_in_a_gap_is_named(between: int) -> None:
    for ids in ([2, between], [2] * MANY + [between], np.array([2] * MANY + [between, -1])):
        with pytest.raises(ValueError, match=f"got {between}$"):
            Decoder(SPARSE).decode_bytes(ids)


@KINDS
@pytest.mark.parametrize("count", [FEW, MANY])
@pytest.mark.parametrize("bad", [2**63, 2**64 - 1, 2**64, 10**30, -(2**63) - 1, -(10**30)])
def test_an_id_too_great_for_an_array_is_named(tokens: Tokens, count: int, bad: int) -> None:
    ids = [*random_ids(tokens, count), bad, -1]
    for held in (ids, tuple(ids), iter(ids), np.array(ids, object)):
        with pytest.raises(ValueError, match=f"got {bad}$"):
            Decoder(tokens).decode_bytes(held)


@KINDS
@pytest.mark.parametrize("bad", [2**63, 2**63 + 5, 2**64 - 1])
def test_an_id_too_great_for_signed_numbers_is_named(tokens: Tokens, bad: int) -> None:
    ids = np.array([*random_ids(tokens, MANY), bad, 2**62], np.uint64)
    with pytest.raises(ValueError, match=f"got {bad}$"):
        Decoder(tokens).decode_bytes(ids)


@KINDS
@pytest.mark.parametrize("count", [FEW, MANY])
@pytest.mark.parametrize("bad", [5.0, float("nan"), None, "5", b"5", [5], 1j, np.float32(2)])
def test_the_first_id_that_is_no_whole_number_is_named(
    tokens: Tokens, count: int, bad: Any
) -> None:
    ids: list[Any] = [*random_ids(tokens, count), bad, None]
    for held in (ids, tuple(ids), iter(ids)):
        with pytest.raises(TypeError) as caught:
            Decoder(tokens).decode_bytes(held)
        assert str(caught.value) == f"ids must be whole numbers, got {bad!r}"


@KINDS
@pytest.mark.parametrize("count", [1, MANY])
@pytest.mark.parametrize("dtype", [np.bool_, np.float32, np.float64, np.complex64, "U3", "S3"])
def test_an_array_of_anything_but_whole_numbers_is_refused(
    tokens: Tokens, count: int, dtype: Any
) -> None:
    ids = np.array([2] * count).astype(dtype)
    with pytest.raises(TypeError, match="ids must be whole numbers, got np"):
        Decoder(tokens).decode_bytes(ids)


@KINDS
@pytest.mark.parametrize("held", [np.array, list, tuple])
def test_rows_of_ids_are_refused(tokens: Tokens, held: Callable[[Any], Any]) -> None:
    for count in (FEW, MANY):
        with pytest.raises(TypeError, match="ids must be whole numbers, got"):
            Decoder(tokens).decode_bytes(held([[2, 2]] * count))


@KINDS
def test_bytes_and_ranges_are_whole_numbers_too(tokens: Tokens) -> None:
    assert Decoder(tokens).decode_bytes(bytes([2, 5, 2])) == join(tokens, [2, 5, 2])
    ids = range(2, 260, 3)
    assert Decoder(tokens).decode_bytes(ids) == join(tokens, ids)


def test_an_empty_array_of_any_kind_has_no_bytes() -> None:
    assert Decoder(DENSE).decode_bytes(np.array([])) == b""


TOKENIZER = Tokenizer(DENSE, [])
IDS = st.lists(st.sampled_from(sorted(DENSE)) | st.integers(0x80, 0xFF), max_size=30)


def parts_of(ids: Iterable[int]) -> Iterator[str]:
    stream = StreamDecoder(TOKENIZER)
    for token_id in ids:
        yield stream.feed(token_id)
    yield stream.finish()


@settings(deadline=None, derandomize=True, max_examples=500)
@given(ids=IDS)
def test_the_parts_joined_are_what_decode_returns(ids: list[int]) -> None:
    assert "".join(parts_of(ids)) == TOKENIZER.decode(ids)


@pytest.mark.parametrize("seed", range(10))
def test_the_parts_of_random_bytes_joined_are_what_decode_returns(seed: int) -> None:
    rng = random.Random(seed)
    leads = [0x41, 0xC2, 0xE0, 0xED, 0xEF, 0xF0, 0xF4, 0xF5, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF]
    for _ in range(300):
        ids = rng.choices(leads, k=rng.randrange(12))
        assert "".join(parts_of(ids)) == TOKENIZER.decode(ids), ids


@settings(deadline=None, derandomize=True, max_examples=300)
@given(ids=IDS, data=st.data())
def test_what_was_given_out_never_changes(ids: list[int], data: st.DataObject) -> None:
    stream = StreamDecoder(TOKENIZER)
    count = data.draw(st.integers(0, len(ids)))
    given_out = "".join(stream.feed(token_id) for token_id in ids[:count])
    for more in ([], ids[count:], [0x80], [0xBF, 0xBF, 0xBF], [0x41]):
        assert TOKENIZER.decode(ids[:count] + more).startswith(given_out)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_a_character_comes_with_its_last_byte(text: str) -> None:
    stream = StreamDecoder(TOKENIZER)
    for character in text:
        *before, last = character.encode()
        assert [stream.feed(byte) for byte in before] == [""] * len(before)
        assert stream.feed(last) == character
    assert stream.finish() == ""


def test_half_a_character_is_told_at_the_end() -> None:
    for end in range(1, 4):
        stream = StreamDecoder(TOKENIZER)
        assert [stream.feed(byte) for byte in "\U0001f600".encode()[:end]] == [""] * end
        assert stream.finish() == "\ufffd"
        assert stream.finish() == ""


def test_a_finished_stream_starts_anew() -> None:
    stream = StreamDecoder(TOKENIZER)
    stream.feed(0xE4)
    stream.finish()
    assert [stream.feed(byte) for byte in b"\xb8a"] == ["\ufffd", "a"]
    assert stream.finish() == ""


@pytest.mark.parametrize("bad", [-1, len(DENSE), 2**70])
def test_an_id_that_is_not_there_leaves_the_stream_as_it_was(bad: int) -> None:
    stream = StreamDecoder(TOKENIZER)
    assert stream.feed(0xC3) == ""
    with pytest.raises(ValueError, match=f"ids must be in the vocabulary .* got {bad}$"):
        stream.feed(bad)
    with pytest.raises(TypeError, match="ids must be whole numbers, got None"):
        stream.feed(None)  # type: ignore[arg-type]
    assert stream.feed(0xA9) == "\u00e9"
    assert stream.finish() == ""


def test_streams_of_one_tokenizer_do_not_mix() -> None:
    one, other = StreamDecoder(TOKENIZER), StreamDecoder(TOKENIZER)
    assert [one.feed(0xC3), other.feed(0xE4), one.feed(0xA9)] == ["", "", "\u00e9"]
    assert [other.feed(byte) for byte in (0xB8, 0xAD)] == ["", "\u4e2d"]
