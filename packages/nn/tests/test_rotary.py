"""Rotary positions: each pair of features turns as a complex number times `exp(i angle)`."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from scratch.nn import NoPosition, RotaryEmbedding, rotary_tables, rotate_pairs

# The tables are float32, so a rotation is exact to half a unit in the last place of 1.
TABLE_ROUNDING = 2**-24


def rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Oracle: complex multiplication in float64."""
    half = x.shape[-1] // 2
    angles = positions[..., None] * theta ** (-torch.arange(half, dtype=torch.float64) / half)
    pairs = torch.view_as_complex(x.double().unflatten(-1, (half, 2)).contiguous())
    return torch.view_as_real(pairs * torch.exp(1j * angles)).flatten(-2)


def assert_rotated(actual: Tensor, expected: Tensor) -> None:
    assert_close(actual.double(), expected, rtol=0, atol=16 * TABLE_ROUNDING)  # of normal numbers


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0, 2.0])
def test_tables_hold_cosine_and_sine_of_position_times_frequency(theta: float) -> None:
    cos, sin = rotary_tables(8, 5000, theta=theta)
    turned = rotate(torch.tensor([1.0, 0.0]).repeat(4), torch.arange(5000.0).double(), theta)
    assert cos.dtype == sin.dtype == torch.float32
    # The last positions tell float64 angles from float32 ones, which would be off by 1e-4.
    assert_close(cos.double(), turned[:, 0::2], rtol=0, atol=TABLE_ROUNDING)
    assert_close(sin.double(), turned[:, 1::2], rtol=0, atol=TABLE_ROUNDING)


@pytest.mark.parametrize("shape", [(9, 6), (2, 9, 6), (2, 3, 9, 6), (2, 0, 6)], ids=str)
def test_rotates_neighbouring_pairs(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    rotated = RotaryEmbedding(6, 9, theta=100.0)(x)
    assert_rotated(rotated, rotate(x, torch.arange(shape[-2]), 100.0))


@pytest.mark.parametrize("shape", [(4,), (1, 4), (3, 4), (1, 3, 4), (2, 1, 4), (2, 3, 4)], ids=str)
def test_positions_broadcast_against_the_leading_axes(shape: tuple[int, ...]) -> None:
    x, positions = torch.randn(2, 3, 4, 6), torch.randint(50, shape)
    expected = rotate(x, positions.expand(2, 3, 4), 10_000.0)
    assert_rotated(RotaryEmbedding(6, 50)(x, positions), expected)


def test_no_positions_means_counting_from_zero() -> None:
    rope, x = RotaryEmbedding(6, 9), torch.randn(2, 5, 6)
    assert torch.equal(rope(x), rope(x, torch.arange(5)))


def test_position_zero_changes_nothing() -> None:
    x = torch.randn(2, 3, 6)
    assert torch.equal(RotaryEmbedding(6, 9)(x, torch.zeros(3, dtype=torch.int64)), x)


@settings(deadline=None, derandomize=True)
@given(query=st.integers(0, 40), key=st.integers(0, 40), shift=st.integers(0, 900))
def test_inner_products_depend_on_the_distance_only(query: int, key: int, shift: int) -> None:
    generator = torch.Generator().manual_seed(7)
    q, k = torch.randn(2, 1, 16, dtype=torch.float64, generator=generator)
    rope = RotaryEmbedding(16, 1000)

    def product(offset: int) -> Tensor:
        turned_q = rope(q, torch.tensor([query + offset]))
        return (turned_q * rope(k, torch.tensor([key + offset]))).sum()

    # Two rotations by rounded tables, summed over 16 products of normal numbers.
    assert_close(product(shift), product(0), rtol=0, atol=64 * TABLE_ROUNDING)


def test_lengths_are_kept() -> None:
    x = torch.randn(3, 50, 16, dtype=torch.float64)
    lengths = RotaryEmbedding(16, 50)(x).norm(dim=-1)
    assert_close(lengths, x.norm(dim=-1), rtol=4 * TABLE_ROUNDING, atol=0)


def test_gradients_turn_back() -> None:
    x = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    rope = RotaryEmbedding(6, 5)
    assert torch.autograd.gradcheck(rope, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_inputs_are_turned_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    x = torch.randn(200, 16).to(dtype)
    rotated = RotaryEmbedding(16, 200)(x)
    assert rotated.dtype == dtype
    expected = rotate(x, torch.arange(200), 10_000.0)
    half_a_unit = torch.finfo(dtype).eps / 2
    assert_close(rotated.double(), expected, rtol=half_a_unit, atol=16 * TABLE_ROUNDING)


def test_rotate_pairs_takes_any_tables() -> None:
    cos, sin = torch.zeros(1, 2), torch.ones(1, 2)  # a quarter turn
    assert rotate_pairs(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), cos, sin).tolist() == [[-2, 1, -4, 3]]


# --- the tables of the module


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_tables_stay_float32_when_the_module_is_cast(dtype: torch.dtype) -> None:
    rope, fresh = RotaryEmbedding(16, 300).to(dtype), RotaryEmbedding(16, 300)
    for table, expected in ((rope.cos, fresh.cos), (rope.sin, fresh.sin)):
        assert table.dtype == torch.float32
        assert torch.equal(table, expected)


def test_tables_are_made_when_a_module_leaves_the_meta_device() -> None:
    with torch.device("meta"):
        rope = RotaryEmbedding(16, 300)
    assert rope.cos.device.type == "meta"
    rope, fresh = rope.to_empty(device="cpu"), RotaryEmbedding(16, 300)
    assert torch.equal(rope.cos, fresh.cos)
    assert torch.equal(rope.sin, fresh.sin)


def test_tables_are_neither_parameters_nor_saved() -> None:
    rope = RotaryEmbedding(16, 300)
    assert not rope.state_dict()
    assert not list(rope.parameters())
    assert {name for name, _ in rope.named_buffers()} == {"cos", "sin"}


def test_a_copy_has_its_own_tables() -> None:
    rope = RotaryEmbedding(16, 300)
    twin = copy.deepcopy(rope)
    assert torch.equal(twin.cos, rope.cos)
    assert twin.cos.data_ptr() != rope.cos.data_ptr()


# --- refusals


def test_refuses_an_odd_width() -> None:
    with pytest.raises(ValueError, match=r"d_head must be even, .*, got 5"):
        RotaryEmbedding(5, 9)


@pytest.mark.parametrize("theta", [0.0, -1.0, float("nan")])
def test_refuses_a_theta_that_is_not_positive(theta: float) -> None:
    with pytest.raises(ValueError, match=f"theta must be a positive number, got {theta}"):
        RotaryEmbedding(6, 9, theta=theta)


def test_refuses_sizes_below_one() -> None:
    with pytest.raises(ValueError, match="d_head must be at least 1, got 0"):
        RotaryEmbedding(0, 9)
    with pytest.raises(ValueError, match="max_seq_len must be at least 1, got 0"):
        RotaryEmbedding(6, 0)


def test_refuses_a_sequence_longer_than_the_tables() -> None:
    with pytest.raises(ValueError, match=r"positions must be in 0 \.\. 8 \(max_seq_len is 9\)"):
        RotaryEmbedding(6, 9)(torch.randn(10, 6))


@pytest.mark.parametrize("wrong", [9, -1])
def test_refuses_a_position_outside_of_the_tables(wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"0 \.\. 8 \(max_seq_len is 9\), got {wrong}"):
        RotaryEmbedding(6, 9)(torch.randn(2, 6), torch.tensor([0, wrong]))


@pytest.mark.usefixtures("unchecked")
def test_refuses_positions_that_are_no_whole_numbers() -> None:
    with pytest.raises(TypeError, match="positions must be whole numbers"):
        RotaryEmbedding(6, 9)(torch.randn(2, 6), torch.tensor([0.0, 1.0]))


# --- no position


def test_no_position_is_the_identity() -> None:
    x = torch.randn(2, 5, 6)
    assert NoPosition()(x) is x
    assert NoPosition()(x, torch.arange(5)) is x
