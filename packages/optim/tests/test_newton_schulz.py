"""Orthogonalization: what it does to singular values, and that every method and dtype does it."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from scratch.optim import newton_schulz, orthogonalize
from scratch.optim._newton_schulz import COEFFICIENTS, Coefficients, Method

Kind = Callable[[int, int], Tensor]

every_method = pytest.mark.parametrize("method", ["plain", "gram"])
every_name = pytest.mark.parametrize("name", list(COEFFICIENTS))


def by_singular_values(matrix: Tensor, name: Coefficients) -> Tensor:
    """Oracle: the polynomial on the singular values themselves, in float64."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.square().sum().sqrt()
    for a, b, c in COEFFICIENTS[name]:
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag(s) @ v


def gaussian(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, dtype=torch.float64)


def geometric(rows: int, columns: int) -> Tensor:
    """Return a matrix with singular values from 1 down to 1e-4, as gradients tend to have."""
    u, _, v = torch.linalg.svd(gaussian(rows, columns), full_matrices=False)
    return u @ torch.diag(torch.logspace(0, -4, min(rows, columns), dtype=torch.float64)) @ v


def low_rank(rows: int, columns: int) -> Tensor:
    rank = max(1, min(rows, columns) // 12)
    u, _, v = torch.linalg.svd(gaussian(rows, columns), full_matrices=False)
    return u[:, :rank] @ v[:rank]


def distance(result: Tensor, expected: Tensor) -> float:
    return ((result.double() - expected).square().sum() / expected.square().sum()).sqrt().item()


SHAPES = [(64, 64), (48, 200), (200, 48), (1, 7), (7, 1), (1, 1), (300, 500)]


@every_method
@every_name
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", [gaussian, geometric, low_rank])
def test_in_float64_both_methods_are_the_polynomial_on_the_singular_values(
    method: Method, name: Coefficients, shape: tuple[int, int], kind: Kind
) -> None:
    matrix = kind(*shape)
    result = orthogonalize(matrix, coefficients=name, method=method, dtype=torch.float64)
    # Steps multiply a rounding error by up to 8, five times over: 1e-16 becomes 1e-12 and less.
    assert_close(result, by_singular_values(matrix, name), rtol=0, atol=1e-11)


# bfloat16 is precise to 4e-3. A Gaussian matrix loses little; where singular values are small or
# zero, what rounding has put in their place is lifted along with them, by either method.
BFLOAT16 = {gaussian: 4e-2, geometric: 1.5e-1, low_rank: 6e-1}


@every_name
@pytest.mark.parametrize("shape", [(192, 192), (192, 768), (768, 192)], ids=str)
@pytest.mark.parametrize("kind", BFLOAT16)
def test_in_bfloat16_the_gram_method_is_as_near_as_the_plain_one(
    name: Coefficients, shape: tuple[int, int], kind: Kind
) -> None:
    matrix = kind(*shape)
    expected = by_singular_values(matrix, name)
    plain, gram = (
        distance(orthogonalize(matrix, coefficients=name, method=method), expected)
        for method in ("plain", "gram")
    )
    assert plain < BFLOAT16[kind]
    assert gram < 1.05 * plain + 0.02  # its last two steps at once cost a Gaussian matrix 0.01


def test_without_restarts_the_gram_method_would_leave_all_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("scratch.optim._newton_schulz._RESTARTS", ())
    matrix = low_rank(192, 768)
    result = orthogonalize(matrix, coefficients="polar_express", method="gram")
    assert distance(result, by_singular_values(matrix, "polar_express")) > 1


@pytest.mark.parametrize(
    ("name", "least", "most"), [("jordan", 0.65, 1.25), ("polar_express", 0.8, 1.2)]
)
def test_singular_values_end_near_one(name: Coefficients, least: float, most: float) -> None:
    u, _, v = torch.linalg.svd(gaussian(64, 128), full_matrices=False)
    matrix = u @ torch.diag(torch.linspace(0.1, 1, 64, dtype=torch.float64)) @ v
    values = torch.linalg.svdvals(orthogonalize(matrix, coefficients=name, dtype=torch.float64))
    assert least < values.min()
    assert values.max() < most


def test_polar_express_reaches_further_down() -> None:
    matrix = torch.diag(torch.tensor([1.0, 1e-3], dtype=torch.float64))
    (_, jordan), (_, polar) = (
        orthogonalize(matrix, coefficients=name, dtype=torch.float64).diagonal().tolist()
        for name in COEFFICIENTS
    )
    assert jordan == pytest.approx(0.43, abs=0.05)
    assert polar == pytest.approx(0.86, abs=0.1)


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_zero_stays_zero(method: Method, dtype: torch.dtype) -> None:
    for shape in ((4, 4), (3, 9), (9, 3)):
        zero = torch.zeros(shape)
        assert torch.equal(orthogonalize(zero, method=method, dtype=dtype), zero)


@every_method
@pytest.mark.parametrize("size", [1e-30, 1e-18, 1e18, 1e37])
def test_the_size_of_the_matrix_does_not_matter(method: Method, size: float) -> None:
    matrix = torch.randn(8, 24)
    expected = orthogonalize(matrix, method=method, dtype=torch.float32)
    # The squares of these sizes leave the range of float32.
    result = orthogonalize(matrix * size, method=method, dtype=torch.float32)
    assert_close(result, expected, rtol=0, atol=1e-4)


@settings(deadline=None, derandomize=True, max_examples=12)
@given(
    batch=st.lists(st.integers(0, 3), max_size=2),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    method=st.sampled_from(["auto", "plain", "gram"]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    transposed=st.booleans(),
)
def test_a_stack_is_its_matrices_one_by_one(
    batch: list[int],
    rows: int,
    columns: int,
    method: Method,
    dtype: torch.dtype,
    transposed: bool,
) -> None:
    stack = torch.randn(*batch, rows, columns, dtype=torch.float64).to(dtype)
    stack = stack.mT.contiguous().mT if transposed else stack
    result = orthogonalize(stack, method=method, dtype=torch.float64)
    assert result.shape == stack.shape
    assert result.dtype == dtype
    for one, matrix in zip(
        result.flatten(0, -3) if batch else [result],
        stack.flatten(0, -3) if batch else [stack],
        strict=True,
    ):
        expected = orthogonalize(matrix, method=method, dtype=torch.float64)
        assert_close(one, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


@every_method
def test_a_batch_is_iterated_as_one_where_that_pays(method: Method) -> None:
    # On the meta device, which has shapes only, the way of devices is taken.
    stack = torch.empty(5, 300, 700, device="meta")
    assert orthogonalize(stack, method=method).shape == stack.shape


def test_the_batched_way_is_the_way_of_single_matrices() -> None:
    from scratch.optim._newton_schulz import _segment

    stack = torch.randn(3, 260, 300, dtype=torch.float64) / 20
    for steps in (1, 2):
        triples = COEFFICIENTS["jordan"][:steps]
        singly = torch.stack([_segment(x, triples) for x in stack])  # in panels
        assert_close(_segment(stack, triples), singly, rtol=1e-11, atol=1e-11)


def test_auto_is_the_gram_method_where_a_side_is_twice_the_other() -> None:
    triples = COEFFICIENTS["jordan"]
    for shape, method in (((32, 63), "plain"), ((32, 64), "gram"), ((64, 32), "gram")):
        x = (torch.randn(shape) / 30).bfloat16()
        assert torch.equal(newton_schulz(x, triples), newton_schulz(x, triples, method=method))
        other: Method = "plain" if method == "gram" else "gram"
        assert not torch.equal(newton_schulz(x, triples), newton_schulz(x, triples, method=other))


def test_triples_may_be_ones_own() -> None:
    matrix = torch.randn(4, 6)
    result = orthogonalize(matrix, coefficients=[(1.0, 0.0, 0.0)], dtype=torch.float32)
    assert_close(result, matrix / matrix.square().sum().sqrt(), rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures("unchecked")
def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"coefficients must be one of jordan, .*, got 'newton'"):
        orthogonalize(torch.ones(2, 2), coefficients="newton")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"method must be one of auto, .*, got 'fast'"):
        orthogonalize(torch.ones(2, 2), method="fast")  # pyright: ignore[reportArgumentType]
