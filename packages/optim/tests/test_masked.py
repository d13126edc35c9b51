"""What every optimizer must do, whatever its formula: step, leave a step out, stop and resume."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scratch.optim import SGD, AdamW, Hybrid, Muon
from scratch.optim._masked import MaskedOptimizer, check_not_negative

Make = Callable[[Any], MaskedOptimizer]


def a_muon(params: Any) -> Muon:
    return Muon(params, 0.05, momentum=0.8, weight_decay=0.01, coefficients="polar_express")


OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda params: SGD(params, 0.05),
    "sgd with momentum": lambda params: SGD(params, 0.05, momentum=0.9),
    "adamw": lambda params: AdamW(params, 0.05),
    "adamw without moments": lambda params: AdamW(params, 0.05, betas=(0.0, 0.0), weight_decay=0.0),
    "adamw in a loop": lambda params: AdamW(params, 0.05, form="loop"),
    "adamw with master weights": lambda params: AdamW(params, 0.05, master_weights=True),
    "adamw in a hybrid": lambda params: Hybrid({"adamw": AdamW(params, 0.05)}),
    "muon": lambda params: a_muon(params),
    "muon in a hybrid": lambda params: Hybrid({"muon": a_muon(params)}),
}
ELEMENTWISE_SHAPES = ((3, 4), (5,), ())
MATRIX_SHAPES = ((3, 4), (5, 1), (1, 1))  # for those that take nothing else
SHAPES = ELEMENTWISE_SHAPES

every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())

YES, NO = torch.tensor(True), torch.tensor(False)


@pytest.fixture(autouse=True)
def shapes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "make" in request.fixturenames and "muon" in request.node.callspec.id:
        monkeypatch.setattr(request.module, "SHAPES", MATRIX_SHAPES)


def some_parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def give_gradients(params: list[nn.Parameter], seed: int, *, fill: float | None = None) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        gradient = torch.randn(p.shape, generator=generator)
        p.grad = (gradient if fill is None else torch.full_like(gradient, fill)).to(p.dtype)


def values(params: list[nn.Parameter]) -> list[Tensor]:
    return [p.detach().clone() for p in params]


def assert_same_bits(actual: Any, expected: Any) -> None:
    """Compare lists and dictionaries of tensors; NaN equals NaN and 0 is not -0."""
    if isinstance(actual, Tensor):
        assert actual.dtype == expected.dtype
        assert actual.numpy().tobytes() == expected.numpy().tobytes()
    elif isinstance(actual, dict):
        assert actual.keys() == expected.keys()
        for name in actual:
            assert_same_bits(actual[name], expected[name])
    elif isinstance(actual, list):
        for one, other in zip(actual, expected, strict=True):
            assert_same_bits(one, other)
    else:
        assert actual == expected


# --- a step


@every_optimizer
def test_steps_go_down_a_bowl(make: Make) -> None:
    params = some_parameters()
    optimizer = make(params)

    def height() -> Tensor:
        return torch.stack([(p - 3).square().sum() for p in params]).sum()

    start = height().item()
    for _ in range(300):
        optimizer.zero_grad()
        height().backward()
        optimizer.step()
    assert height().item() < start / 100


@every_optimizer
def test_a_parameter_changes_in_place_and_its_gradient_not(make: Make) -> None:
    params = some_parameters()
    optimizer = make(params)
    give_gradients(params, 1)
    addresses = [p.data_ptr() for p in params]
    before = values(params)
    gradients = [p.grad.clone() for p in params if p.grad is not None]
    optimizer.step()
    assert [p.data_ptr() for p in params] == addresses
    assert all((p != old).all() for p, old in zip(params, before, strict=True))
    assert_same_bits([p.grad for p in params], gradients)
    assert all(p.requires_grad and p.is_leaf for p in params)


@every_optimizer
def test_a_parameter_without_a_gradient_is_left_alone(make: Make) -> None:
    params = some_parameters()
    optimizer = make(params)
    give_gradients(params, 1)
    params[1].grad = None
    before = values(params)
    optimizer.step()
    optimizer.masked_step(YES)
    assert_same_bits(params[1].detach(), before[1])
    assert params[1] not in optimizer.state
    assert (params[0] != before[0]).all()


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_parameters_keep_their_dtype_and_state_is_float32_or_wider(
    make: Make, dtype: torch.dtype
) -> None:
    params = some_parameters(dtype)
    optimizer = make(params)
    give_gradients(params, 1)
    optimizer.step()
    assert {p.dtype for p in params} == {dtype}
    state = {
        name: value.dtype
        for name, value in optimizer.state[params[0]].items()
        if value.shape == (3, 4)
    }
    assert set(state.values()) == {torch.promote_types(dtype, torch.float32)}
    optimizer.load_state_dict(optimizer.state_dict())  # torch would round it to the parameter's
    assert {name: optimizer.state[params[0]][name].dtype for name in state} == state


@every_optimizer
def test_any_iterable_of_parameters_will_do(make: Make) -> None:
    outcomes = []
    for wrap in (list, iter, lambda params: [(f"p{i}", p) for i, p in enumerate(params)]):
        params = some_parameters()
        optimizer = make(wrap(params))
        give_gradients(params, 1)
        optimizer.step()
        outcomes.append(values(params))
    assert_same_bits(outcomes[1], outcomes[0])
    assert_same_bits(outcomes[2], outcomes[0])


# --- closures


@every_optimizer
def test_a_closure_is_called_first_and_its_value_returned(make: Make) -> None:
    params, twins = some_parameters(), some_parameters()
    optimizer, twin = make(params), make(twins)

    def closure() -> float:
        assert torch.is_grad_enabled()
        give_gradients(params, 1)
        return 7.5

    with torch.no_grad():
        assert optimizer.step(closure) == 7.5
    give_gradients(twins, 1)
    assert twin.step() is None
    assert_same_bits(values(params), values(twins))


@every_optimizer
def test_a_closure_may_return_its_loss_as_a_tensor(make: Make) -> None:
    params = some_parameters()
    optimizer = make(params)

    def closure() -> Tensor:
        loss = params[0].sum()
        loss.backward()
        return loss

    loss = optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    assert isinstance(loss, Tensor)


# --- groups


@every_optimizer
def test_each_group_steps_at_its_own_rate(make: Make) -> None:
    params = some_parameters()
    optimizer = make([{"params": params[:1]}, {"params": params[1:], "lr": 0.0}])
    give_gradients(params, 1)
    before = values(params)
    optimizer.step()
    assert (params[0] != before[0]).all()
    assert_same_bits(values(params)[1:], before[1:])


@every_optimizer
def test_a_rate_set_between_steps_holds_from_the_next_on(make: Make) -> None:
    params = some_parameters()
    optimizer = make(params)
    give_gradients(params, 1)
    optimizer.step()
    before = values(params)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert_same_bits(values(params), before)


@every_optimizer
def test_a_group_may_join_later(make: Make) -> None:
    params, twins = some_parameters(), some_parameters()
    optimizer, twin = make(params[:1]), make(twins)
    optimizer.add_param_group({"params": params[1:]})
    give_gradients(params, 1)
    give_gradients(twins, 1)
    optimizer.step()
    twin.step()
    assert_same_bits(values(params), values(twins))


# --- a step that may be called off


@every_optimizer
def test_a_masked_step_that_is_finite_is_a_step(make: Make) -> None:
    params, twins = some_parameters(), some_parameters()
    optimizer, twin = make(params), make(twins)
    for seed in range(4):
        give_gradients(params, seed)
        give_gradients(twins, seed)
        optimizer.masked_step(YES)
        twin.step()
        assert_same_bits(values(params), values(twins))
        assert_same_bits(optimizer.state_dict(), twin.state_dict())


@every_optimizer
@pytest.mark.parametrize("fill", [None, float("nan"), float("inf"), 3e38], ids=str)
def test_a_masked_step_that_is_not_finite_changes_no_bit(make: Make, fill: float | None) -> None:
    params = some_parameters()
    optimizer = make(params)
    give_gradients(params, 1)
    optimizer.step()
    before, state = values(params), copy.deepcopy(optimizer.state_dict())
    give_gradients(params, 2, fill=fill)
    for _ in range(3):
        optimizer.masked_step(NO)
    assert_same_bits(values(params), before)
    assert_same_bits(optimizer.state_dict(), state)


@every_optimizer
@pytest.mark.parametrize("fill", [None, float("nan"), float("inf")], ids=str)
def test_the_first_step_too_can_be_called_off_without_a_trace(
    make: Make, fill: float | None
) -> None:
    params, twins = some_parameters(), some_parameters()
    optimizer, twin = make(params), make(twins)
    give_gradients(params, 0, fill=fill)
    optimizer.masked_step(NO)
    assert_same_bits(values(params), values(twins))
    for seed in (1, 2, 3):
        give_gradients(params, seed)
        give_gradients(twins, seed)
        optimizer.step()
        twin.step()
    assert_same_bits(values(params), values(twins))
    assert_same_bits(optimizer.state_dict(), twin.state_dict())


@every_optimizer
def test_steps_that_are_called_off_leave_the_others_as_if_alone(make: Make) -> None:
    params, twins = some_parameters(), some_parameters()
    optimizer, twin = make(params), make(twins)
    for seed, finite in enumerate([False, True, False, False, True, True, False, True]):
        give_gradients(params, seed, fill=None if finite else float("nan"))
        optimizer.masked_step(torch.tensor(finite))
        if finite:
            give_gradients(twins, seed)
            twin.step()
    assert_same_bits(values(params), values(twins))
    assert_same_bits(optimizer.state_dict(), twin.state_dict())


@every_optimizer
@pytest.mark.usefixtures("unchecked")
def test_whether_to_step_is_never_read_on_the_host(make: Make) -> None:
    params = [nn.Parameter(p.detach().to("meta")) for p in some_parameters()]
    optimizer = make(params)
    for p in params:
        p.grad = torch.zeros_like(p)
    finite = torch.tensor(True).to("meta")  # its value cannot be read
    for _ in range(2):
        optimizer.masked_step(finite)


# --- order


@every_optimizer
def test_the_order_of_the_parameters_does_not_matter(make: Make) -> None:
    params, twins = some_parameters(), some_parameters()
    optimizer, twin = make(params), make(twins[::-1])
    for seed in range(3):
        give_gradients(params, seed)
        give_gradients(twins, seed)
        optimizer.step()
        twin.step()
    assert_same_bits(values(params), values(twins))


@every_optimizer
def test_parameters_that_wait_for_their_gradient_count_from_their_own_first_step(
    make: Make,
) -> None:
    params, twins = some_parameters(), some_parameters()
    optimizer, twin = make(params), make(twins[:1])
    give_gradients(params, 0)
    params[0].grad = None
    optimizer.step()
    for seed in (1, 2):
        give_gradients(params, seed)
        give_gradients(twins, seed)
        optimizer.step()
        twin.step()
    assert_same_bits(params[0].detach(), twins[0].detach())


# --- stopping and resuming


@every_optimizer
def test_a_copied_optimizer_is_the_same_optimizer(make: Make) -> None:
    params = some_parameters()
    optimizer = make(params)
    give_gradients(params, 0)
    optimizer.step()
    twin = copy.deepcopy(optimizer)
    twins = [p for group in twin.param_groups for p in group["params"]]
    for seed in (1, 2):
        give_gradients(params, seed)
        give_gradients(twins, seed)
        optimizer.masked_step(YES)
        twin.masked_step(YES)
    assert_same_bits(values(params), values(twins))
    assert_same_bits(optimizer.state_dict(), twin.state_dict())


@every_optimizer
def test_what_is_loaded_in_place_may_differ_among_parameters(make: Make) -> None:
    params = some_parameters()
    optimizer = make(params)
    give_gradients(params, 0)
    optimizer.step()
    saved = optimizer.state_dict()
    addresses = [t.data_ptr() for state in saved["state"].values() for t in state.values()]
    assert len(set(addresses)) == len(addresses)


@every_optimizer
def test_a_saved_optimizer_goes_on_as_if_never_stopped(make: Make) -> None:
    params = some_parameters()
    optimizer = make([{"params": params[:2]}, {"params": params[2:], "lr": 0.01}])
    for seed in range(3):
        give_gradients(params, seed)
        optimizer.step()

    file = io.BytesIO()
    torch.save({"parameters": values(params), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = [nn.Parameter(value) for value in saved["parameters"]]
    resumed_optimizer = make([{"params": resumed[:2]}, {"params": resumed[2:]}])
    resumed_optimizer.load_state_dict(saved["optimizer"])

    assert_same_bits(resumed_optimizer.state_dict(), optimizer.state_dict())
    for seed in range(3, 6):
        for each, its_optimizer in ((params, optimizer), (resumed, resumed_optimizer)):
            give_gradients(each, seed)
            its_optimizer.step()
    assert_same_bits(values(resumed), values(params))


@every_optimizer
def test_an_optimizer_that_never_stepped_can_be_saved(make: Make) -> None:
    optimizer, other = make(some_parameters()), make(some_parameters())
    other.load_state_dict(optimizer.state_dict())
    assert other.state_dict()["state"] == {}


@every_optimizer
def test_loading_does_not_tie_two_optimizers_together(make: Make) -> None:
    params, twins = some_parameters(), some_parameters()
    optimizer, twin = make(params), make(twins)
    give_gradients(params, 1)
    optimizer.step()
    twin.load_state_dict(optimizer.state_dict())
    state = copy.deepcopy(twin.state_dict())
    optimizer.step()
    assert_same_bits(twin.state_dict(), state)


@every_optimizer
def test_a_state_can_be_loaded_as_often_as_one_likes(make: Make) -> None:
    params = some_parameters()
    optimizer = make(params)
    saved = optimizer.state_dict()
    for optimizer_again in (optimizer, copy.deepcopy(optimizer)):
        optimizer_again.load_state_dict(saved)
        optimizer_again.load_state_dict(saved)
        assert_same_bits(optimizer_again.state_dict(), saved)


@every_optimizer
def test_a_group_may_carry_more_than_its_optimizer_asks_for(make: Make) -> None:
    optimizer, other = make(some_parameters()), make(some_parameters())
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 0.5)  # leaves an "initial_lr"
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["lr"] == 0.5 * 0.05


@pytest.mark.parametrize(
    ("kind", "foreign"),
    [(SGD, AdamW), (AdamW, SGD), (AdamW, torch.optim.AdamW)],
)
def test_the_state_of_another_kind_of_optimizer_is_refused(
    kind: type[MaskedOptimizer], foreign: type[torch.optim.Optimizer]
) -> None:
    params = some_parameters()
    other = foreign(params, lr=0.1)  # pyright: ignore[reportCallIssue]
    give_gradients(params, 1)
    other.step()
    with pytest.raises(ValueError, match=f"state_dict must be of {kind.__name__}"):
        kind(some_parameters(), lr=0.1).load_state_dict(other.state_dict())


@every_optimizer
def test_a_state_that_does_not_fit_the_parameters_is_refused(make: Make) -> None:
    params = [nn.Parameter(torch.ones(1, 4))]
    optimizer, wider = make(params), make([nn.Parameter(torch.ones(3, 4))])
    give_gradients(params, 1)
    optimizer.step()
    with pytest.raises(ValueError, match=r"\(1, 4\)"):
        wider.load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match="parameter"):
        make(some_parameters()).load_state_dict(optimizer.state_dict())


@every_optimizer
@pytest.mark.usefixtures("unchecked")
def test_a_compiled_step_is_the_same_step(make: Make) -> None:
    params, twins = some_parameters(), some_parameters()
    optimizer, twin = make(params), make(twins)
    compiled = torch.compile(optimizer.step, backend="eager")
    for seed in range(3):
        give_gradients(params, seed)
        give_gradients(twins, seed)
        compiled()
        twin.step()
    assert_same_bits(values(params), values(twins))
    assert_same_bits(optimizer.state_dict(), twin.state_dict())


# --- refusals


@pytest.mark.parametrize("value", [-1.0, -1e-300, float("nan")])
def test_what_must_not_be_negative_is_refused_by_name(value: float) -> None:
    with pytest.raises(ValueError, match=f"decay must not be negative, got {value}"):
        check_not_negative(lr=0.0, decay=value)


@every_optimizer
def test_refuses_to_optimize_nothing(make: Make) -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        make([])


# --- other dtypes than at the start


@every_optimizer
@pytest.mark.parametrize(
    ("before", "after"), [(torch.float32, torch.float64), (torch.float64, torch.float32)], ids=str
)
def test_a_state_of_another_width_is_brought_to_that_of_the_update(
    make: Make, before: torch.dtype, after: torch.dtype
) -> None:
    first, then = some_parameters(before), some_parameters(after)
    optimizer, resumed = make(first), make(then)
    give_gradients(first, 1)
    optimizer.step()
    with torch.no_grad():
        for p, q in zip(then, first, strict=True):
            p.copy_(q)
    resumed.load_state_dict(optimizer.state_dict())
    for params, its in ((first, optimizer), (then, resumed)):
        give_gradients(params, 2)
        its.step()
    for p, q in zip(then, first, strict=True):
        assert p.dtype == after
        # Float32 on one of the sides; the step is of size 0.05.
        torch.testing.assert_close(p.float(), q.float(), rtol=1e-5, atol=1e-5)
    for state in resumed.state.values():
        assert {value.dtype for value in state.values() if value.ndim} <= {after}
