"""Token files keep every id, and batches are windows of them."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.format import open_memmap

from scratch.train import Batch, get_batch, open_tokens, token_dtype, window_batch, write_tokens

ANY = settings(deadline=None, derandomize=True)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.npy"


# --- batches


def test_targets_are_the_inputs_one_token_later() -> None:
    inputs, targets = get_batch(np.arange(100, 200), 16, 7, generator=seeded(0))
    assert inputs.shape == targets.shape == (16, 7)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(7))


def test_starts_are_uniform_from_the_first_window_to_the_last() -> None:
    inputs, _ = get_batch(np.arange(14), 20_000, 4, generator=seeded(0))
    counts = torch.bincount(inputs[:, 0])
    assert len(counts) == 10
    # Binomial: mean 2000, standard deviation 42.4. Five of them fail once in 170 000 seeds.
    assert (counts - 2000).abs().max() < 5 * 42.4


def test_the_generator_decides() -> None:
    first, again, other = (
        get_batch(np.arange(10_000), 4, 8, generator=seeded(seed))[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_generator_of_torch_is_the_default() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        by_default, _ = get_batch(np.arange(10_000), 4, 8)
    by_name, _ = get_batch(np.arange(10_000), 4, 8, generator=seeded(5))
    assert torch.equal(by_default, by_name)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "i4", "u4", "i8"])
def test_ids_of_any_integer_type_arrive_unchanged(dtype: str) -> None:
    greatest = min(np.iinfo(dtype).max, 2**40)
    inputs, targets = get_batch(np.array([1, greatest, 2], dtype), 1, 2)
    assert inputs.tolist() == [[1, greatest]]
    assert targets.tolist() == [[greatest, 2]]


def test_batches_go_to_the_device() -> None:
    inputs, targets = get_batch(np.arange(9), 2, 4, "meta")
    assert inputs.device.type == targets.device.type == "meta"
    assert window_batch(np.arange(9), [0, 1], 4, torch.device("meta")).inputs.device.type == "meta"


def test_a_file_larger_than_memory_gives_batches_at_once(path: Path) -> None:
    open_memmap(path, mode="w+", dtype=np.uint16, shape=(2**36,))  # 128 GiB, of which none is there
    tokens = open_tokens(path)
    inputs, _ = get_batch(tokens, 8, 64, generator=seeded(0))
    assert inputs.shape == (8, 64)
    assert window_batch(tokens, [2**36 - 65], 64).targets.sum() == 0


@ANY
@given(
    tokens=st.lists(st.integers(0, 2**16 - 1), min_size=2, max_size=60),
    data=st.data(),
)
def test_window_batch_equals_slices(tokens: list[int], data: st.DataObject) -> None:
    context_length = data.draw(st.integers(1, len(tokens) - 1))
    starts = data.draw(st.lists(st.integers(0, len(tokens) - context_length - 1), min_size=1))
    batch = window_batch(np.array(tokens, np.uint16), starts, context_length)
    stops = [start + context_length for start in starts]
    slices = list(zip(starts, stops, strict=True))
    assert batch.inputs.tolist() == [tokens[start:stop] for start, stop in slices]
    assert batch.targets.tolist() == [tokens[start + 1 : stop + 1] for start, stop in slices]


def test_a_batch_does_not_change_with_the_data() -> None:
    tokens = np.arange(10)
    batch = window_batch(tokens, [0], 4)
    tokens[:] = 0
    assert batch.inputs.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("name", ["batch_size", "context_length"])
@pytest.mark.parametrize("size", [0, -2])
def test_a_size_below_one_is_refused(name: str, size: int) -> None:
    sizes = {"batch_size": 2, "context_length": 3, name: size}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {size}"):
        get_batch(np.arange(10), **sizes)


@pytest.mark.parametrize("length", [0, 1, 5])
def test_a_dataset_without_a_whole_window_is_refused(length: int) -> None:
    expected = f"longer than context_length.*got {length} tokens, context_length=5"
    with pytest.raises(ValueError, match=expected):
        get_batch(np.arange(length), 2, 5)


def test_a_dataset_of_two_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dataset must have one dimension, got shape \(3, 4\)"):
        get_batch(np.zeros((3, 4), np.int64), 2, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.bool_, np.str_])
@pytest.mark.usefixtures("unchecked")
def test_a_dataset_of_anything_but_integers_is_refused(dtype: type) -> None:
    with pytest.raises(TypeError, match="dataset must hold integers, got dtype"):
        get_batch(np.zeros(10, dtype), 2, 2)


def test_a_missing_device_raises_the_error_of_torch() -> None:
    with pytest.raises(RuntimeError, match="no_such_device"):
        get_batch(np.arange(10), 2, 2, "no_such_device")


# --- token files


@ANY
@given(blocks=st.lists(st.lists(st.integers(0, 2**17 - 1), max_size=20), max_size=8))
def test_what_is_written_is_read(
    blocks: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("tokens") / "tokens.npy"
    ids = [token for block in blocks for token in block]
    assert write_tokens(path, blocks, vocab_size=2**17) == len(ids)
    assert open_tokens(path).tolist() == ids


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 99, 100, 101, 12_345, 100_000])
def test_the_header_holds_any_length(path: Path, length: int) -> None:
    ids = [index % 50_000 for index in range(length)]
    write_tokens(path, [ids], vocab_size=50_000)
    assert np.load(path).tolist() == ids
    assert path.stat().st_size == 128 + 2 * length, "the header has one size for all"


@pytest.mark.parametrize(
    ("vocab_size", "dtype"),
    [(1, "<u2"), (65_536, "<u2"), (65_537, "<u4"), (2**32, "<u4")],
)
def test_the_greatest_id_fits_the_smallest_type(path: Path, vocab_size: int, dtype: str) -> None:
    write_tokens(path, [[vocab_size - 1]], vocab_size=vocab_size)
    tokens = open_tokens(path)
    assert tokens.tolist() == [vocab_size - 1]
    assert tokens.dtype == token_dtype(vocab_size) == np.dtype(dtype)


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda ids: np.array(ids, np.uint16)])
def test_blocks_may_be_any_sequence(path: Path, kind: Callable[[list[int]], Any]) -> None:
    write_tokens(path, (kind([block, 9]) for block in range(3)), vocab_size=10)
    assert open_tokens(path).tolist() == [0, 9, 1, 9, 2, 9]


def test_path_may_be_a_str(path: Path) -> None:
    write_tokens(str(path), [[1, 2]], vocab_size=3)
    assert open_tokens(str(path)).tolist() == [1, 2]


def test_tokens_are_mapped_and_read_only(path: Path) -> None:
    write_tokens(path, [[1, 2, 3]], vocab_size=4)
    tokens = open_tokens(path)
    assert isinstance(tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 0


@pytest.mark.parametrize("wrong", [-1, 10, 65_536, -(2**40)])
def test_an_id_out_of_range_is_refused_and_leaves_nothing(path: Path, wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"ids must be in 0 \.\. 9, got {wrong}"):
        write_tokens(path, [[1, 2], [3, wrong, 4]], vocab_size=10)
    assert list(path.parent.iterdir()) == []


def test_an_old_file_stays_when_its_successor_fails(path: Path) -> None:
    def failing() -> Iterator[list[int]]:
        yield [4, 5, 6]
        raise RuntimeError("the corpus ends here")

    write_tokens(path, [[1, 2, 3]], vocab_size=10)
    with pytest.raises(RuntimeError, match="the corpus ends here"):
        write_tokens(path, failing(), vocab_size=10)
    assert open_tokens(path).tolist() == [1, 2, 3]
    assert list(path.parent.iterdir()) == [path]


def test_one_block_is_held_at_a_time(path: Path) -> None:
    sizes: list[int] = []

    def blocks() -> Iterator[list[int]]:
        for _ in range(3):
            yield [0] * 100_000
            (temporary,) = path.parent.iterdir()
            sizes.append(temporary.stat().st_size)

    write_tokens(path, blocks(), vocab_size=10)
    assert sizes == sorted(set(sizes)), "each block is on its way before the next is asked for"


@pytest.mark.parametrize("vocab_size", [0, -1, 2**32 + 1])
def test_a_vocabulary_that_no_type_holds_is_refused(path: Path, vocab_size: int) -> None:
    expected = rf"vocab_size must be in 1 \.\. 2\*\*32, got {vocab_size}"
    with pytest.raises(ValueError, match=expected):
        token_dtype(vocab_size)
    with pytest.raises(ValueError, match=expected):
        write_tokens(path, [[0]], vocab_size=vocab_size)
    assert list(path.parent.iterdir()) == []


def test_a_cut_file_is_refused_wherever_it_is_cut(path: Path) -> None:
    write_tokens(path, [range(20)], vocab_size=100)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"tokens\.npy must be a complete \.npy file"):
            open_tokens(path)


def save_archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, tokens=np.arange(5, dtype=np.uint16))


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "archive": (save_archive, r"complete \.npy file"),
    "text": (lambda path: path.write_text("once upon a time"), r"complete \.npy file"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps([1])), r"complete \.npy file"),
    "objects": (lambda path: np.save(path, np.array([None])), "unsigned integers.*object"),
    "floats": (lambda path: np.save(path, np.zeros(3)), "unsigned integers.*float64"),
    "signed": (lambda path: np.save(path, np.zeros(3, np.int64)), "unsigned integers.*int64"),
    "matrix": (
        lambda path: np.save(path, np.zeros((3, 2), np.uint16)),
        r"in one dimension.*shape \(3, 2\)",
    ),
    "scalar": (lambda path: np.save(path, np.uint16(3)), r"in one dimension.*shape \(\)"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_refused(path: Path, kind: str) -> None:
    write, message = FOREIGN[kind]
    write(path)
    with pytest.raises(ValueError, match=rf"tokens\.npy.*{message}"):
        open_tokens(path)


def test_a_missing_file_is_reported_as_such(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokens\.npy"):
        open_tokens(path)


def test_bytes_past_the_end_are_refused(path: Path) -> None:
    write_tokens(path, [[1, 2, 3]], vocab_size=10)
    with path.open("ab") as file:
        file.write(b"zzzz")
    with pytest.raises(ValueError, match=r"complete \.npy file of 134 bytes, got 138"):
        open_tokens(path)


def test_any_damage_to_the_header_is_told_as_such(path: Path) -> None:
    write_tokens(path, [[1, 2, 3]], vocab_size=10)
    good = path.read_bytes()
    refused = 0
    for place in range(128):
        for byte in b"\x00(),'0[{ ":
            path.write_bytes(good[:place] + bytes([byte]) + good[place + 1 :])
            try:
                open_tokens(path)
            except ValueError as error:
                refused += "tokens.npy must" in str(error)
    assert refused > 500


# --- what is not an id, not a block, not a start


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("block", [[1.7], ["1"], [True], np.array([2.5])], ids=str)
def test_ids_that_are_not_whole_numbers_are_refused(path: Path, block: Any) -> None:
    with pytest.raises(TypeError, match="ids must be whole numbers"):
        write_tokens(path, [block], vocab_size=10)


@pytest.mark.usefixtures("unchecked")
def test_a_block_of_two_dimensions_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match=r"one dimension, got shape \(2, 2\)"):
        write_tokens(path, [np.array([[1, 2], [3, 4]])], vocab_size=10)


@pytest.mark.parametrize(
    ("block", "wrong"),
    [([2**63], 2**63), ([-(2**70)], -(2**70)), ([1, 2**64], 2**64)],
    ids=["uint64", "below 64 bits", "above 64 bits"],
)
def test_a_huge_id_is_named_as_it_is(path: Path, block: list[int], wrong: int) -> None:
    with pytest.raises(ValueError, match=f"ids must be in 0 .. 9, got {wrong}"):
        write_tokens(path, [block], vocab_size=10)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("dataset", [[1, 2, 3, 4], torch.arange(9)], ids=["list", "tensor"])
def test_a_dataset_that_is_no_array_is_refused(dataset: Any) -> None:
    with pytest.raises(TypeError, match="dataset must be a numpy array"):
        get_batch(dataset, 1, 2)


@pytest.mark.parametrize("start", [-1, 8])
def test_a_start_outside_the_data_is_refused(start: int) -> None:
    with pytest.raises(ValueError, match=f"starts must be in 0 .. 7, got {start}"):
        window_batch(np.arange(10), [start], 2)


def test_no_starts_give_an_empty_batch() -> None:
    assert window_batch(np.arange(10), [], 2).inputs.shape == (0, 2)


def test_inputs_and_targets_do_not_share_memory() -> None:
    batch = window_batch(np.arange(10), [0], 4)
    batch.inputs.zero_()
    assert batch.targets.view(-1).tolist() == [1, 2, 3, 4]


def test_a_batch_with_more_targets_than_inputs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got inputs \(1, 2\), targets \(1, 3\)"):
        Batch(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.int64))
