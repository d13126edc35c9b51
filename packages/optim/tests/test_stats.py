"""Monitoring: the norms and ratios are those of the formula, group by group, and never awaited."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from scratch.optim import SGD, GradStats, UpdateRatios, grad_stats


def some_parameters() -> dict[str, nn.Parameter]:
    names = ("layers.0.attn.weight", "layers.0.ffn.weight", "layers.1.attn.weight", "head")
    params = {name: nn.Parameter(torch.randn(3, 4, dtype=torch.float64)) for name in names}
    for p in params.values():
        p.grad = torch.randn_like(p)
    return params


def norm(*tensors: torch.Tensor | None) -> torch.Tensor:
    return torch.cat([t.detach().flatten() for t in tensors if t is not None]).norm()


def test_the_norms_of_each_group() -> None:
    params = some_parameters()
    stats = grad_stats(params.items())
    a, b, c, d = params.values()
    assert list(stats) == ["layers.0", "layers.1", "head"]
    assert_close(stats["layers.0"].weight_norm, norm(a, b), rtol=1e-14, atol=0)
    assert_close(stats["layers.0"].grad_norm, norm(a.grad, b.grad), rtol=1e-14, atol=0)
    assert_close(stats["layers.1"].grad_norm, norm(c.grad), rtol=1e-14, atol=0)
    assert_close(stats["head"].weight_norm, norm(d), rtol=1e-14, atol=0)


def test_the_groups_may_be_ones_own_and_gradients_may_be_missing() -> None:
    params = some_parameters()
    for p in params.values():
        p.grad = None
    (stats,) = grad_stats(params.items(), group=lambda _: "all").values()
    assert stats.grad_norm == 0
    assert_close(stats.weight_norm, norm(*params.values()), rtol=1e-14, atol=0)


def test_the_ratio_is_the_length_of_the_update_over_that_of_the_weights() -> None:
    params = some_parameters()
    old = {name: p.detach().clone() for name, p in params.items()}
    ratios = UpdateRatios(params.items(), group=lambda name: name)
    ratios.before()
    SGD(list(params.values()), 0.1).step()
    for name, ratio in ratios.after().items():
        assert_close(ratio, 0.1 * norm(params[name].grad) / norm(old[name]), rtol=1e-13, atol=0)


def test_after_needs_a_before() -> None:
    ratios = UpdateRatios(some_parameters().items())
    with pytest.raises(RuntimeError, match=r"before\(\) must be called ahead of the update"):
        ratios.after()
    ratios.before()
    ratios.after()
    with pytest.raises(RuntimeError, match=r"before\(\) must be called"):
        ratios.after()


@pytest.mark.usefixtures("unchecked")
def test_nothing_is_read_on_the_host() -> None:
    parameter = nn.Parameter(torch.ones(3, device="meta"))
    parameter.grad = torch.ones(3, device="meta")
    ratios = UpdateRatios([("p", parameter)])
    ratios.before()
    stats = grad_stats([("p", parameter)])["p"]
    assert isinstance(stats, GradStats)
    for value in (stats.grad_norm, stats.weight_norm, ratios.after()["p"]):
        assert value.device.type == "meta"
