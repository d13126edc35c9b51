"""Values that would pass in silence are refused, by name, rule and value."""

import pytest
import torch

from scratch.nn._checks import as_indices, check_at_least_one

pytestmark = pytest.mark.usefixtures("unchecked")


def test_positive_sizes_pass() -> None:
    check_at_least_one(rows=1, columns=10**12)


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_below_one_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=rf"columns must be at least 1, got {size}"):
        check_at_least_one(rows=1, columns=size)


@pytest.mark.parametrize("size", [2.0, True, "2", None], ids=repr)
def test_a_size_that_is_no_whole_number_is_refused(size: object) -> None:
    with pytest.raises(TypeError, match=rf"rows must be a whole number, got {size!r}"):
        check_at_least_one(rows=size)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.uint16, torch.int16, torch.int32, torch.int64], ids=str
)
def test_indices_of_any_width_become_int64(dtype: torch.dtype) -> None:
    indices = as_indices(torch.tensor([[0, 4], [2, 1]], dtype=dtype), 5, name="ids", rule="rows")
    assert indices.dtype == torch.int64
    assert indices.tolist() == [[0, 4], [2, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.bool], ids=str)
def test_indices_that_are_no_whole_numbers_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=rf"ids must be whole numbers, got dtype {dtype}"):
        as_indices(torch.zeros(2, dtype=dtype), 5, name="ids", rule="rows")


@pytest.mark.parametrize("wrong", [-1, 5, 2**40])
def test_an_index_out_of_range_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"ids must be in 0 \.\. 4 \(rows\), got {wrong}"):
        as_indices(torch.tensor([0, wrong, 4]), 5, name="ids", rule="rows")


def test_no_index_is_a_good_index() -> None:
    assert as_indices(torch.zeros(0, 3, dtype=torch.int32), 5, name="ids", rule="").shape == (0, 3)


def test_indices_on_another_device_are_not_read() -> None:
    on_meta = torch.zeros(3, dtype=torch.int64, device="meta")
    assert as_indices(on_meta, 5, name="ids", rule="rows").device.type == "meta"
