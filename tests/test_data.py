"""Contract: sampling training batches."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from .adapters import run_get_batch


def test_get_batch() -> None:
    dataset = np.arange(1000, 2000)
    x, y = run_get_batch(dataset, batch_size=5, context_length=7, device="cpu")
    assert x.shape == y.shape == (5, 7)
    assert x.dtype == y.dtype == torch.int64
    assert x.device == y.device == torch.device("cpu")
    assert torch.equal(y, x + 1)
    for row in x:
        start = int(row[0])
        assert row.tolist() == list(range(start, start + 7))


def test_starts_are_uniform_over_all_windows() -> None:
    windows, draws = 10, 20_000
    x, _ = run_get_batch(np.arange(windows + 4), draws, context_length=4, device="cpu")
    counts = Counter(x[:, 0].tolist())
    assert sorted(counts) == list(range(windows)), "the first and the last included"
    # Binomial: mean 2000, standard deviation 42. Five of them fail once in 170 000 seeds.
    assert max(abs(count - draws / windows) for count in counts.values()) < 5 * 42.5


def test_two_batches_differ() -> None:
    first, second = (run_get_batch(np.arange(10**6), 8, 4, "cpu")[0] for _ in range(2))
    assert not torch.equal(first, second)


def test_the_shortest_dataset_has_one_window() -> None:
    x, y = run_get_batch(np.array([3, 1, 4, 1]), batch_size=2, context_length=3, device="cpu")
    assert x.tolist() == [[3, 1, 4], [3, 1, 4]]
    assert y.tolist() == [[1, 4, 1], [1, 4, 1]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, np.int64])
def test_ids_of_every_integer_type_arrive_unchanged(dtype: type[np.integer]) -> None:
    greatest = min(np.iinfo(dtype).max, 2**40)
    x, y = run_get_batch(np.full(10, greatest, dtype=dtype), 2, 3, "cpu")
    assert x.dtype == y.dtype == torch.int64
    assert (x == greatest).all()
    assert (y == greatest).all()


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_memory_mapped_dataset_is_sampled_in_place(tmp_path: Path, mode: str) -> None:
    tokens = np.arange(2**16, dtype=np.uint16)
    tokens.tofile(tmp_path / "tokens.bin")
    np.save(tmp_path / "tokens.npy", tokens)
    for dataset in (
        np.memmap(tmp_path / "tokens.bin", dtype=np.uint16, mode=mode),
        np.load(tmp_path / "tokens.npy", mmap_mode=mode),
    ):
        x, y = run_get_batch(dataset, batch_size=64, context_length=16, device="cpu")
        assert torch.equal(y, x + 1), "65535 is an id, not -1"
        assert x.max() > 2**15


def test_a_strided_dataset_is_sampled_in_its_own_order() -> None:
    x, y = run_get_batch(np.arange(100)[::-2], batch_size=9, context_length=5, device="cpu")
    assert torch.equal(y, x - 2)


def test_batches_go_to_the_device() -> None:
    x, y = run_get_batch(np.arange(100), batch_size=2, context_length=5, device="meta")
    assert x.device.type == y.device.type == "meta"


@pytest.mark.parametrize("device", ["cuda:99", "no_such_device"])
def test_an_unavailable_device_raises_the_error_of_torch(device: str) -> None:
    with pytest.raises((RuntimeError, AssertionError)) as expected:
        torch.zeros(1, device=device)
    with pytest.raises(expected.type, match=re.escape(str(expected.value).splitlines()[0])):
        run_get_batch(np.arange(100), batch_size=2, context_length=5, device=device)


@pytest.mark.parametrize(("tokens", "context_length"), [(7, 7), (3, 12), (0, 1)])
def test_a_dataset_too_short_for_one_window_is_refused(tokens: int, context_length: int) -> None:
    names_both = rf"(?=.*\b{tokens}\b)(?=.*\b({context_length}|{context_length + 1})\b)"
    with pytest.raises(ValueError, match=names_both):
        run_get_batch(np.arange(tokens), 2, context_length, "cpu")


@pytest.mark.parametrize(("batch_size", "context_length"), [(0, 4), (-1, 4), (2, 0), (2, -3)])
def test_sizes_below_one_are_refused(batch_size: int, context_length: int) -> None:
    name = "batch_size" if batch_size < 1 else "context_length"
    with pytest.raises(ValueError, match=rf"{name}.*{min(batch_size, context_length)}"):
        run_get_batch(np.arange(100), batch_size, context_length, "cpu")


def test_a_dataset_that_is_no_row_of_integers_is_refused() -> None:
    with pytest.raises(TypeError, match="dataset"):
        run_get_batch(np.linspace(0, 1, 100), 2, 4, "cpu")
    with pytest.raises((TypeError, ValueError), match="dataset"):
        run_get_batch(np.zeros((10, 10), dtype=np.int64), 2, 4, "cpu")
