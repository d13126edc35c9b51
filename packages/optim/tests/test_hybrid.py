"""One optimizer out of several: who gets what, at what rate, and that it is one for a loop."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from scratch.optim import SGD, AdamW, Constant, Hybrid, Muon, hybrid


class Model(nn.Module):
    """The names of a small Transformer, and shapes to tell them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.token_embeddings = nn.Embedding(7, 4)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"qkv": nn.Linear(4, 12, bias=False), "ln": nn.LayerNorm(4)})
            for _ in range(2)
        )
        self.lm_head = nn.Linear(4, 7, bias=False)


def named(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(model.named_parameters())


def give_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def values(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def owners(model: nn.Module, optimizer: Hybrid) -> dict[str, tuple[str, float]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group["rule"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }


def test_matrices_inside_go_to_muon_and_the_rest_to_adamw_where_vectors_do_not_decay() -> None:
    model = Model()
    optimizer = hybrid(named(model), lr=0.1, weight_decay=0.2, adamw_weight_decay=0.3)
    assert owners(model, optimizer) == {
        "token_embeddings.weight": ("adamw", 0.3),
        "lm_head.weight": ("adamw", 0.3),
        **{f"layers.{i}.qkv.weight": ("muon", 0.2) for i in range(2)},
        **{
            f"layers.{i}.ln.{name}": ("adamw", 0.0) for i in range(2) for name in ("weight", "bias")
        },
    }


def test_who_is_adamw_s_can_be_said_by_names_or_by_a_function() -> None:
    model = Model()
    by_names = owners(model, hybrid(named(model), lr=0.1, by_adamw=["layers.0"]))
    assert by_names["layers.0.qkv.weight"][0] == "adamw"
    assert by_names["lm_head.weight"][0] == "muon"
    by_size = hybrid(named(model), lr=0.1, by_adamw=lambda _, p: p.shape[0] == 12)
    assert owners(model, by_size)["layers.1.qkv.weight"][0] == "adamw"
    assert owners(model, by_size)["lm_head.weight"][0] == "muon"


def test_parameters_that_do_not_learn_are_left_out() -> None:
    model = Model()
    model.lm_head.requires_grad_(False)
    assert "lm_head.weight" not in owners(model, hybrid(named(model), lr=0.1))


def test_each_steps_as_its_own_optimizer_would() -> None:
    model, twin = Model(), Model()
    twin.load_state_dict(model.state_dict())
    optimizer = hybrid(
        named(model), lr=0.02, adamw_lr=0.01, weight_decay=0.1, split_rows={"qkv": 3}
    )
    hidden = [layer["qkv"].weight for layer in twin.layers]  # pyright: ignore
    others = [p for p in twin.parameters() if all(p is not q for q in hidden)]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in others if p.ndim == 2]},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    apart = [Muon(hidden, 0.02, scale="rms", split_rows=3), AdamW(groups, 0.01)]
    for seed in range(3):
        give_gradients(model, seed)
        give_gradients(twin, seed)
        optimizer.step()
        for one in apart:
            one.step()
    assert all(torch.equal(a, b) for a, b in zip(values(model), values(twin), strict=True))


def test_a_loop_sets_all_rates_by_one_schedule() -> None:
    optimizer = hybrid(named(Model()), lr=0.02, adamw_lr=0.005)
    assert {g["rule"]: g["lr_scale"] for g in optimizer.param_groups} == {"muon": 1, "adamw": 0.25}
    assert {g["rule"]: g["lr"] for g in optimizer.param_groups} == {"muon": 0.02, "adamw": 0.005}
    for group in optimizer.param_groups:
        group["lr"] = Constant(peak=0.1)(1) * group["lr_scale"]
    assert {g["rule"]: g["lr"] for g in optimizer.param_groups} == {"muon": 0.1, "adamw": 0.025}


def test_a_saved_hybrid_goes_on_as_if_never_stopped() -> None:
    model, resumed = Model(), Model()
    optimizer = hybrid(named(model), lr=0.02, split_rows={"qkv": 3})
    for seed in range(3):
        give_gradients(model, seed)
        optimizer.masked_step(torch.tensor(seed != 1))
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    resumed.load_state_dict(weights)
    again = hybrid(named(resumed), lr=0.5)
    again.load_state_dict(state)
    for seed in range(3, 5):
        for each, its in ((model, optimizer), (resumed, again)):
            give_gradients(each, seed)
            its.step()
    assert all(torch.equal(a, b) for a, b in zip(values(model), values(resumed), strict=True))


def test_the_state_of_another_division_is_refused() -> None:
    model, other = Model(), Model()
    optimizer = hybrid(named(model), lr=0.02)
    give_gradients(model, 0)
    optimizer.step()
    foreign = hybrid(named(other), lr=0.02, by_adamw=lambda *_: True)
    with pytest.raises(ValueError, match="state_dict must be of Hybrid"):
        foreign.load_state_dict(optimizer.state_dict())


def test_a_called_off_step_changes_neither_part() -> None:
    model = Model()
    optimizer = hybrid(named(model), lr=0.02)
    give_gradients(model, 0)
    optimizer.step()
    before = values(model)
    for p in model.parameters():
        p.grad = torch.full_like(p, float("nan"))
    optimizer.masked_step(torch.tensor(False))
    assert all(torch.equal(a, b) for a, b in zip(values(model), before, strict=True))


def test_schedulers_of_torch_find_a_real_optimizer() -> None:
    model = Model()
    optimizer = hybrid(named(model), lr=0.02, adamw_lr=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 0.5)
    give_gradients(model, 0)
    optimizer.step()
    scheduler.step()
    assert {g["lr"] for g in optimizer.param_groups} == {0.01, 0.005}


# --- any optimizers


def test_any_optimizers_can_be_combined_with_the_state_they_have() -> None:
    p, q = (nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    p.grad = q.grad = torch.ones(2, 2)
    adamw = AdamW([p], 0.1)
    adamw.step()
    optimizer = Hybrid({"slow": SGD([q], 0.5), "fast": adamw})
    optimizer.step()
    assert optimizer.state[p]["step"] == 2
    assert_close(q.detach(), torch.full((2, 2), 0.5))


def test_a_group_that_joins_names_its_rule_or_gets_the_last() -> None:
    first, *more = [nn.Parameter(torch.ones(2, 2)) for _ in range(4)]
    optimizer = Hybrid({"muon": Muon([first], 0.1), "adamw": AdamW([more[0]], 0.2)})
    optimizer.add_param_group({"params": [more[1]]})
    optimizer.add_param_group({"params": [more[2]], "rule": "muon"})
    assert [(g["rule"], g["lr"]) for g in optimizer.param_groups[2:]] == [
        ("adamw", 0.2),
        ("muon", 0.1),
    ]
    with pytest.raises(ValueError, match="rule must be one of muon, adamw, got 'sgd'"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "rule": "sgd"})
    with pytest.raises(ValueError, match="params must be matrices"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "rule": "muon"})
    assert len(optimizer.param_groups) == 4


def test_refuses_to_combine_nothing_and_one_parameter_twice() -> None:
    with pytest.raises(ValueError, match="rules must hold at least one optimizer"):
        Hybrid({})
    p = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match="more than one parameter group"):
        Hybrid({"a": SGD([p], 0.1), "b": AdamW([p], 0.1)})
    with pytest.raises(ValueError, match="named_parameters must hold at least one"):
        hybrid([], lr=0.1)


@pytest.mark.parametrize("lr", [0.0, -0.1])
def test_refuses_a_rate_of_which_the_others_are_no_multiples(lr: float) -> None:
    with pytest.raises(ValueError, match=f"lr must be positive, .* got {lr}"):
        hybrid(named(Model()), lr=lr, adamw_lr=0.1)


def test_refuses_names_that_choose_nothing() -> None:
    with pytest.raises(ValueError, match=r"split_rows must name parts of .*, got 'nonexistent'"):
        hybrid(named(Model()), lr=0.1, split_rows={"nonexistent": 3})


@pytest.mark.usefixtures("unchecked")
def test_refuses_a_single_string_for_names() -> None:
    with pytest.raises(TypeError, match="by_adamw must be several parts of names"):
        hybrid(named(Model()), lr=0.1, by_adamw="lm_head")


def test_refuses_the_state_of_other_rules_before_it_changes_anything() -> None:
    p = nn.Parameter(torch.ones(4, 4))
    optimizer = Hybrid({"a": AdamW([p], 0.1)})
    p.grad = torch.ones(4, 4)
    optimizer.step()
    others = (AdamW([p], 0.5).state_dict(), Hybrid({"b": AdamW([p], 0.5)}).state_dict())
    for state in others:
        with pytest.raises(ValueError, match="state_dict must be of Hybrid with the same rules"):
            optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.1
    optimizer.step()
