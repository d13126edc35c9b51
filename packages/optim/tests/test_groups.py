"""Matrices decay, vectors and scalars do not, and nothing that learns is left out."""

import pytest
import torch
from torch import nn

from scratch.optim import AdamW, decay_groups


def parameter(*shape: int, learns: bool = True) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape, dtype=torch.float64), requires_grad=learns)


def test_matrices_decay_and_vectors_do_not() -> None:
    matrix, vector, scalar, kernel = parameter(2, 3), parameter(3), parameter(), parameter(2, 2, 2)
    named = [("m", matrix), ("v", vector), ("s", scalar), ("k", kernel)]
    decaying, others = decay_groups(named, weight_decay=0.2)
    assert decaying["weight_decay"] == 0.2
    assert others["weight_decay"] == 0
    assert [id(p) for p in decaying["params"]] == [id(matrix), id(kernel)]
    assert [id(p) for p in others["params"]] == [id(vector), id(scalar)]


def test_every_parameter_that_learns_is_in_one_group() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[0].bias.requires_grad_(False)
    groups = decay_groups(model.named_parameters(), weight_decay=0.1)
    grouped = [p for group in groups for p in group["params"]]
    learning = [p for p in model.parameters() if p.requires_grad]
    assert len(grouped) == len(learning)
    assert {id(p) for p in grouped} == {id(p) for p in learning}


def test_parameters_that_do_not_learn_are_left_out() -> None:
    frozen, free = parameter(2, 2, learns=False), parameter(2, 2)
    (group,) = decay_groups([("frozen", frozen), ("free", free)], weight_decay=0.1)
    assert [id(p) for p in group["params"]] == [id(free)]


@pytest.mark.parametrize(("shape", "decay"), [((2, 2), 0.1), ((2,), 0.0)])
def test_there_is_no_empty_group(shape: tuple[int, ...], decay: float) -> None:
    (group,) = decay_groups([("only", parameter(*shape))], weight_decay=0.1)
    assert group["weight_decay"] == decay


def test_an_optimizer_decays_by_the_groups() -> None:
    matrix, vector = parameter(2, 2), parameter(2)
    for p in (matrix, vector):
        p.grad = torch.zeros_like(p)
    AdamW(decay_groups([("m", matrix), ("v", vector)], weight_decay=0.5), 0.1).step()
    assert matrix.tolist() == [[0.95, 0.95], [0.95, 0.95]]
    assert vector.tolist() == [1, 1]


def test_refuses_to_group_nothing() -> None:
    with pytest.raises(ValueError, match="named_parameters must hold at least one that requires"):
        decay_groups([], weight_decay=0.1)
    with pytest.raises(ValueError, match="named_parameters must hold at least one that requires"):
        decay_groups([("frozen", parameter(2, learns=False))], weight_decay=0.1)


@pytest.mark.parametrize("decay", [-0.1, float("nan")])
def test_refuses_a_negative_decay(decay: float) -> None:
    with pytest.raises(ValueError, match=f"weight_decay must not be negative, got {decay}"):
        decay_groups([("p", parameter(2))], weight_decay=decay)
