"""Muon: its formula, its scales, its splits, and where it meets PyTorch's."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from scratch.optim import Muon, muon, orthogonalize
from scratch.optim._masked import MaskedOptimizer


def matrices(*shapes: tuple[int, int], dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]


def give_gradients(params: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def values(params: list[nn.Parameter]) -> list[Tensor]:
    return [p.detach() for p in params]


@pytest.mark.parametrize("nesterov", [True, False])
def test_follows_the_formula(nesterov: bool) -> None:
    (p,) = matrices((6, 4), dtype=torch.float64)
    expected, m = p.detach().clone(), torch.zeros(6, 4, dtype=torch.float64)
    optimizer = Muon(
        [p], 0.02, momentum=0.9, weight_decay=0.5, nesterov=nesterov, dtype=torch.float64
    )
    for seed in range(5):
        give_gradients([p], seed)
        assert p.grad is not None
        m = 0.9 * m + 0.1 * p.grad
        u = 0.9 * m + 0.1 * p.grad if nesterov else m
        o = orthogonalize(u, dtype=torch.float64)
        expected = (1 - 0.02 * 0.5) * expected - 0.02 * (6 / 4) ** 0.5 * o
        optimizer.step()
    assert_close(p.detach(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("scale", "adjust"), [("spectral", "original"), ("rms", "match_rms_adamw")]
)
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(32, 32), (24, 96), (96, 24)], ids=str)
def test_walks_where_pytorch_walks(
    scale: Any, adjust: Any, nesterov: bool, shape: tuple[int, int]
) -> None:
    ours, theirs = matrices(shape), matrices(shape)
    theirs[0].data.copy_(ours[0].data)
    arguments: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1, "nesterov": nesterov}
    optimizer = Muon(ours, scale=scale, method="plain", **arguments)
    other = torch.optim.Muon(theirs, adjust_lr_fn=adjust, **arguments)
    for seed in range(3):
        give_gradients(ours, seed)
        give_gradients(theirs, seed)
        optimizer.step()
        other.step()
    # Ours is divided by its norm in float32 and then rounded to bfloat16; theirs the other way
    # about. An entry of O is some tenths, and its error some thousandths, times 0.02 and the scale.
    longest = 0.02 * max(1.0, 0.2 * max(shape) ** 0.5 if scale == "rms" else (shape[0] / shape[1]))
    assert_close(values(ours), values(theirs), rtol=0, atol=3 * 0.015 * longest)


@settings(deadline=None, derandomize=True, max_examples=12)
@given(
    shapes=st.lists(st.sampled_from([(3, 4), (4, 3), (2, 6), (4, 4)]), min_size=1, max_size=6),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    split_rows=st.sampled_from([1]),
    transposed=st.booleans(),
)
def test_many_together_are_each_by_itself(
    shapes: list[tuple[int, int]], dtype: torch.dtype, split_rows: int, transposed: bool
) -> None:
    params = matrices(*shapes, dtype=dtype)
    if transposed:
        params = [nn.Parameter(p.detach().mT.contiguous().mT) for p in params]
    twins = copy.deepcopy(params)
    stacked, single = (Muon(each, 0.1, dtype=torch.float64) for each in (params, twins))
    reference = MaskedOptimizer.update_all
    for seed in range(3):
        give_gradients(params, seed)
        give_gradients(twins, seed)
        stacked.step()
        for p in twins:
            if not single.state[p]:
                single.state[p] = single.initial_state(p)
        with torch.no_grad():
            group = single.param_groups[0]
            reference(single, list(twins), [single.state[p] for p in twins], group, None)
    near = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-6}[dtype]
    assert_close(values(params), values(twins), rtol=near, atol=near)


def test_a_fused_matrix_moves_as_its_parts_would() -> None:
    parts = matrices((4, 4), (4, 4), (4, 4), dtype=torch.float64)
    fused = [nn.Parameter(torch.cat([p.detach() for p in parts]))]
    whole = [nn.Parameter(fused[0].detach().clone())]
    give_gradients(parts, 1)
    for each in (fused, whole):
        each[0].grad = torch.cat([p.grad for p in parts if p.grad is not None])
    Muon(parts, 0.1, dtype=torch.float64).step()
    Muon([{"params": fused, "split_rows": 3}], 0.1, dtype=torch.float64).step()
    Muon(whole, 0.1, dtype=torch.float64).step()
    assert_close(fused[0].detach(), torch.cat(values(parts)), rtol=1e-12, atol=1e-13)
    assert (whole[0] - fused[0]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("scale", "shape", "expected"),
    [
        ("spectral", (8, 2), 2.0),
        ("spectral", (2, 8), 1.0),
        ("rms", (25, 4), 1.0),
        ("rms", (4, 25), 1.0),
    ],
)
def test_the_scales(scale: Any, shape: tuple[int, int], expected: float) -> None:
    o = torch.ones(shape, dtype=torch.float64)
    p = muon(torch.zeros_like(o), o, lr=0.5, weight_decay=0.0, scale=scale)
    assert_close(p, -0.5 * expected * o, rtol=1e-12, atol=0)


def test_the_rms_scale_moves_entries_as_far_as_adamw_would() -> None:
    (p,) = matrices((96, 48))
    start = p.detach().clone()
    give_gradients([p], 1)
    Muon([p], 0.1, scale="rms", weight_decay=0.0).step()
    # Singular values of 0.7 to 1.2, where 1 would make it 0.2; AdamW's steps are of that size.
    rms = (p.detach() - start).square().mean().sqrt().item()
    assert rms == pytest.approx(0.1 * 0.2, rel=0.3)


def test_a_gradient_of_zero_only_decays() -> None:
    (p,) = matrices((3, 4), dtype=torch.float64)
    start = p.detach().clone()
    p.grad = torch.zeros_like(p)
    Muon([p], 0.1, weight_decay=0.5).step()
    assert_close(p.detach(), 0.95 * start, rtol=1e-12, atol=0)


def test_on_a_device_a_step_called_off_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scratch.optim._muon.readable", lambda _: False)
    params = [nn.Parameter(torch.tensor([[-0.0, 1.0], [2.0, 0.0]])) for _ in range(2)]
    optimizer = Muon(params, 0.1)
    give_gradients(params, 1)
    optimizer.masked_step(torch.tensor(True))
    assert optimizer.state[params[0]]["momentum"].abs().sum() > 0
    with torch.no_grad():
        params[0][0, 0] = -0.0
    tensors = [*values(params), *(optimizer.state[p]["momentum"] for p in params)]
    before = [tensor.numpy().tobytes() for tensor in tensors]
    for bad in (float("nan"), float("inf"), 1.0):
        for p in params:
            p.grad = torch.full_like(p, bad)
        optimizer.masked_step(torch.tensor(False))
        assert [tensor.numpy().tobytes() for tensor in tensors] == before


# --- refusals


@pytest.mark.parametrize("shape", [(3,), (), (2, 2, 2)], ids=str)
def test_refuses_what_is_no_matrix(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="params must be matrices, got one of shape"):
        Muon([nn.Parameter(torch.ones(shape))], 0.1)


def test_a_refused_group_leaves_no_trace() -> None:
    optimizer = Muon(matrices((2, 2)), 0.1)
    with pytest.raises(ValueError, match="params must be matrices"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("split_rows", [0, 2, 4])
def test_refuses_to_split_rows_unevenly(split_rows: int) -> None:
    with pytest.raises(ValueError, match=f"split_rows must divide .*={split_rows}, rows=3"):
        Muon(matrices((3, 2)), 0.1, split_rows=split_rows)


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_refuses_negative_numbers(name: str) -> None:
    arguments: dict[str, float] = {"lr": 0.1, name: -0.5}
    with pytest.raises(ValueError, match=f"{name} must not be negative, got -0.5"):
        Muon(matrices((2, 2)), **arguments)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"scale": "big"}, "scale must be one of spectral, rms, got 'big'"),
        ({"method": "fast"}, "method must be one of auto, plain, gram, got 'fast'"),
        ({"coefficients": "none"}, "coefficients must be one of jordan, polar_express"),
    ],
)
def test_refuses_what_it_does_not_know(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Muon(matrices((2, 2)), 0.1, **arguments)
