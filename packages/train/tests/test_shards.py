"""Shards read as the one array that they are parts of."""

from collections.abc import Callable
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scratch.train import (
    Batch,
    TokenShards,
    evaluate,
    evaluation_batches,
    get_batch,
    open_tokens,
    window_batch,
    write_tokens,
)

ANY = settings(deadline=None, derandomize=True)
LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=7).filter(any)


def cut(lengths: list[int]) -> tuple[TokenShards, np.ndarray]:
    """Return shards of these lengths, and the same ids as one array."""
    whole = np.arange(1000, 1000 + sum(lengths)).astype(np.uint16)
    borders = [0, *accumulate(lengths)]
    return TokenShards([whole[start:stop] for start, stop in pairwise(borders)]), whole


@ANY
@given(lengths=LENGTHS, start=st.integers(-70, 70), stop=st.integers(-70, 70))
def test_slices_are_those_of_the_whole(lengths: list[int], start: int, stop: int) -> None:
    shards, whole = cut(lengths)
    for part in (slice(start, stop), slice(start, None), slice(None, stop), slice(None)):
        np.testing.assert_array_equal(shards[part], whole[part])
        assert shards[part].dtype == shards.dtype == np.uint16
    assert len(shards) == len(whole)
    assert [shards[index] for index in range(-len(whole), len(whole))] == [*whole, *whole]


@ANY
@given(lengths=LENGTHS, data=st.data())
def test_windows_are_those_of_the_whole_wherever_the_borders_lie(
    lengths: list[int], data: st.DataObject
) -> None:
    shards, whole = cut([*lengths, 2])
    context_length = data.draw(st.integers(1, len(whole) - 1))
    starts = data.draw(st.lists(st.integers(0, len(whole) - context_length - 1)))
    batch, expected = (window_batch(ids, starts, context_length) for ids in (shards, whole))
    assert torch.equal(batch.inputs, expected.inputs)
    assert torch.equal(batch.targets, expected.targets)
    assert batch.inputs.dtype == torch.int64


@ANY
@given(lengths=LENGTHS, seed=st.integers(0, 9))
def test_random_batches_are_those_of_the_whole(lengths: list[int], seed: int) -> None:
    shards, whole = cut([*lengths, 4])
    one, other = (
        get_batch(ids, 5, 3, generator=torch.Generator().manual_seed(seed))
        for ids in (shards, whole)
    )
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


@ANY
@given(lengths=LENGTHS, context_length=st.integers(1, 12), stride=st.integers(1, 12))
def test_evaluation_windows_are_those_of_the_whole(
    lengths: list[int], context_length: int, stride: int
) -> None:
    shards, whole = cut(lengths)
    options: dict[str, Any] = {
        "context_length": context_length, "batch_size": 3, "stride": min(stride, context_length),
    }  # fmt: skip
    one, other = (
        [(batch.inputs.tolist(), batch.targets.tolist()) for batch in batches]
        for batches in (evaluation_batches([ids], **options) for ids in (shards, whole))
    )
    assert one == other


def test_a_model_scores_shards_as_it_scores_the_whole(
    new_model: Callable[..., nn.Module], mean_loss: Callable[[nn.Module, Batch], Tensor]
) -> None:
    shards, whole = cut([5, 3, 9])
    one, other = (
        evaluate(
            new_model(vocab_size=1100),
            evaluation_batches([ids], context_length=4, batch_size=2),
            loss=mean_loss,
        )
        for ids in (shards, whole)
    )
    assert one == other


def test_files_are_read_across_their_borders(tmp_path: Path) -> None:
    for number in range(3):
        ids = range(10 * number, 10 * number + 10)
        write_tokens(tmp_path / f"{number}.npy", [ids], vocab_size=100)
    shards = TokenShards([open_tokens(tmp_path / f"{number}.npy") for number in range(3)])
    assert window_batch(shards, [7, 18], 5).targets.tolist() == [
        [8, 9, 10, 11, 12], [19, 20, 21, 22, 23],
    ]  # fmt: skip
    assert shards[8:12].tolist() == [8, 9, 10, 11]


def test_a_slice_within_one_shard_is_not_a_copy() -> None:
    shards, whole = cut([5, 5])
    assert np.shares_memory(shards[6:9], whole)
    assert not np.shares_memory(shards[4:6], whole)


def test_nothing_can_be_written_through_a_slice() -> None:
    shards, whole = cut([5, 5])
    for part in (shards[1:3], shards[4:6], shards[:]):
        with pytest.raises(ValueError, match="read-only"):
            part[0] = 0
    whole[0] = 7  # while its owner still can


def test_shards_become_an_array_where_one_is_asked_for() -> None:
    shards, whole = cut([5, 0, 5])
    np.testing.assert_array_equal(np.asarray(shards), whole)
    assert np.asarray(shards, np.int64).dtype == np.int64
    alone, whole = cut([6])
    assert np.shares_memory(np.asarray(alone), whole)
    with pytest.raises(ValueError, match="several shards must be copied"):
        np.array(shards, copy=False)


def test_shards_without_tokens_are_an_empty_stream() -> None:
    shards = TokenShards([np.empty(0, np.uint16), np.empty(0, np.uint16)])
    assert len(shards) == 0
    assert shards[:].tolist() == []
    with pytest.raises(ValueError, match=r"got 0 tokens, context_length=1"):
        window_batch(shards, [0], 1)


@pytest.mark.parametrize("start", [-1, 8])
def test_a_start_outside_the_shards_is_refused(start: int) -> None:
    shards, _ = cut([5, 5])
    with pytest.raises(ValueError, match=f"starts must be in 0 .. 7, got {start}"):
        window_batch(shards, [start], 2)


@pytest.mark.parametrize("index", [10, -11])
def test_an_index_outside_the_shards_is_refused(index: int) -> None:
    with pytest.raises(IndexError, match=rf"index must be in -10 \.\. 9, got {index}"):
        cut([5, 5])[0][index]


def test_a_slice_with_another_step_is_refused() -> None:
    with pytest.raises(ValueError, match="must have step 1, got 2"):
        cut([5, 5])[0][::2]


@pytest.mark.parametrize(
    ("shards", "error", "message"),
    [
        ([], ValueError, "shards must hold at least one array, got none"),
        ([np.zeros((2, 2), int)], ValueError, r"shard must have one dimension, got shape \(2, 2\)"),
        (
            [np.zeros(2, np.uint16), np.zeros(2, np.uint32)],
            ValueError,
            "shards must have one dtype, got uint16 and uint32",
        ),
        ([np.zeros(2)], TypeError, "shard must hold integers, got dtype float64"),
        ([[1, 2]], TypeError, "shard must be a numpy array, got list"),
    ],
    ids=["none", "matrix", "two types", "floats", "list"],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_stream_is_refused(shards: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TokenShards(shards)
