"""The embedding looks rows up, gives each row the sum of its gradients, and refuses other ids."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from scratch.nn import Embedding, embedding


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 0), (2, 3, 4)], ids=str)
def test_looks_up_one_row_for_each_id(shape: tuple[int, ...]) -> None:
    ids, weight = torch.randint(9, shape), torch.randn(9, 5)
    assert torch.equal(embedding(ids, weight), functional.embedding(ids, weight))


def test_ids_of_any_width_will_do() -> None:
    weight = torch.randn(9, 5)
    rows = embedding(torch.tensor([8, 0], dtype=torch.int16), weight)
    assert torch.equal(rows, weight[[8, 0]])


def test_a_repeated_id_adds_up_its_gradients() -> None:
    weight = torch.zeros(4, 2, requires_grad=True)
    upstream = torch.tensor([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]])
    embedding(torch.tensor([3, 1, 3]), weight).backward(upstream)
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0, 0], [10, 20], [0, 0], [101, 202]]


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
def test_the_gradient_is_the_same_to_the_last_bit_every_time() -> None:
    ids = torch.randint(3, (4096,))  # each of three rows sums more than a thousand terms
    weight, upstream = torch.randn(3, 64, requires_grad=True), torch.randn(4096, 64)
    first, *others = (
        torch.autograd.grad(embedding(ids, weight), weight, upstream)[0] for _ in range(8)
    )
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("wrong", [-1, 9])
def test_refuses_an_id_outside_of_the_vocabulary(wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"ids must be in 0 \.\. 8 \(the vocab.*\), got {wrong}"):
        embedding(torch.tensor([[0, wrong]]), torch.randn(9, 5))


@pytest.mark.usefixtures("unchecked")
def test_refuses_ids_that_are_no_whole_numbers() -> None:
    with pytest.raises(TypeError, match=r"ids must be whole numbers, got dtype torch\.float32"):
        embedding(torch.zeros(2), torch.randn(9, 5))


def test_the_module_looks_up_in_its_weight() -> None:
    layer, ids = Embedding(9, 5), torch.tensor([[1, 8]])
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {"weight": (9, 5)}
    assert torch.equal(layer(ids), layer.weight[ids])


@pytest.mark.parametrize("sd", [1.0, 0.05])
def test_starts_normal_cut_at_three_standard_deviations(sd: float) -> None:
    sigmas = Embedding(1000, 600, sd=sd).weight.detach().double() / sd
    # 600,000 draws: 0.005 is five standard errors of a share, and more of the other figures.
    assert 2.95 < float(sigmas.abs().max()) <= 3 + 1e-6
    assert float(sigmas.mean()) == pytest.approx(0, abs=0.007)
    assert float(sigmas.std()) == pytest.approx(0.98658, abs=0.005)  # of the normal, cut at 3
    share_within_one = math.erf(1 / math.sqrt(2)) / math.erf(3 / math.sqrt(2))
    assert float((sigmas.abs() < 1).double().mean()) == pytest.approx(share_within_one, abs=0.005)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 3), "vocab_size must be at least 1, got 0"),
        ((3, 0), "d_model must be at least 1, got 0"),
    ],
)
def test_refuses_sizes_below_one(sizes: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Embedding(*sizes)


def test_float16_rows_come_back_as_they_are() -> None:
    weight = torch.randn(9, 5).half()
    assert_close(embedding(torch.tensor(4), weight), weight[4], rtol=0, atol=0)
