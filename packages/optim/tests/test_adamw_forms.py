"""The fast forms of AdamW are the loop: in every dtype and layout, masked, compiled, or neither."""

import copy
import os
import subprocess
import sys
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from scratch.optim import AdamW, _adamw, _adamw_forms

# A handful of operations in another order. In float32 that is a few units in the last place of
# numbers near one, on top of steps of 0.03; a wrong moment would show in the second digit.
NEAR: dict[torch.dtype, dict[str, float]] = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-14},
    torch.float32: {"rtol": 1e-5, "atol": 1e-6},
    torch.bfloat16: {"rtol": 2**-7, "atol": 1e-6},  # one rounding the other way
    torch.float16: {"rtol": 2**-10, "atol": 1e-6},
}
LAYOUTS = ["plain", "transposed", "strided", "expanded gradient"]


@pytest.fixture
def as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no form read a flag or a step on the host, as if the tensors were far away."""
    monkeypatch.setattr(_adamw, "readable", lambda _: False)
    monkeypatch.setattr(_adamw_forms, "readable", lambda _: False)


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the compiled form be traced to graphs, and these be run as they are."""
    monkeypatch.setattr(_adamw_forms, "_BACKEND", "eager")


def a_parameter(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> nn.Parameter:
    wide = torch.randn(*shape[:-1], 2 * shape[-1]).to(dtype)
    values = {
        "plain": wide[..., : shape[-1]].contiguous(),
        "transposed": wide[..., : shape[-1]].mT.contiguous().mT,
        "strided": wide[..., ::2],
        "expanded gradient": wide[..., : shape[-1]].contiguous(),
    }
    return nn.Parameter(values[layout])


def a_gradient(parameter: Tensor, layout: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    if layout == "expanded gradient":
        return gradient[..., :1].expand(parameter.shape)
    return gradient


def walk(form: Any, params: list[nn.Parameter], layout: str, **arguments: Any) -> AdamW:
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.01, "weight_decay": 0.0}]
    optimizer = AdamW(groups, 0.03, form=form, **arguments)
    for seed in range(4):
        for index, p in enumerate(params):
            p.grad = a_gradient(p, layout, 10 * seed + index)
        if seed == 1:
            params[0].grad = None
        optimizer.step()
    return optimizer


@settings(deadline=None, derandomize=True, max_examples=20)
@given(
    shapes=st.lists(
        st.lists(st.integers(1, 7), min_size=2, max_size=3).map(tuple), min_size=3, max_size=5
    ),
    dtype=st.sampled_from(list(NEAR)),
    layout=st.sampled_from(LAYOUTS),
    betas=st.sampled_from([(0.9, 0.95), (0.0, 0.95), (0.9, 0.0), (0.8, 0.999)]),
    master=st.booleans(),
)
def test_foreach_is_the_loop(
    shapes: list[tuple[int, ...]],
    dtype: torch.dtype,
    layout: str,
    betas: tuple[float, float],
    master: bool,
) -> None:
    params = [a_parameter(shape, dtype, layout) for shape in shapes]
    twins, strides = copy.deepcopy(params), [p.stride() for p in params]
    arguments: dict[str, Any] = {"betas": betas, "master_weights": master}
    fast, loop = (
        walk("foreach", params, layout, **arguments),
        walk("loop", twins, layout, **arguments),
    )
    near = NEAR[dtype]
    assert_close([p.detach() for p in params], [p.detach() for p in twins], **near)
    assert [p.stride() for p in params] == strides
    for p, twin in zip(params, twins, strict=True):
        assert fast.state[p].keys() == loop.state[twin].keys()
        assert fast.state[p]["step"] == loop.state[twin]["step"]
        for name in ("first_moment", "second_moment"):
            assert_close(fast.state[p][name], loop.state[twin][name], rtol=1e-5, atol=1e-6)


def test_large_parameters_go_in_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scratch.optim._batches.CACHED_NUMBERS", 20)
    params = [a_parameter(shape, torch.float64, "plain") for shape in ((3, 5), (2, 2), (9, 9))]
    twins = copy.deepcopy(params)
    walk("foreach", params, "plain")
    walk("loop", twins, "plain")
    assert_close([p.detach() for p in params], [p.detach() for p in twins], **NEAR[torch.float64])


def test_auto_is_foreach_bit_for_bit() -> None:
    params = [a_parameter((3, 4), torch.float32, "plain") for _ in range(3)]
    twins = copy.deepcopy(params)
    walk("auto", params, "plain")
    walk("foreach", twins, "plain")
    assert all(torch.equal(p, twin) for p, twin in zip(params, twins, strict=True))


@pytest.mark.usefixtures("as_on_a_device")
@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("eps", [1e-8, 0.0])
def test_on_a_device_foreach_is_the_loop_too(dtype: torch.dtype, eps: float) -> None:
    params = [a_parameter((3, 4), dtype, "plain") for _ in range(3)]
    twins = copy.deepcopy(params)
    walk("foreach", params, "plain", eps=eps)
    walk("loop", twins, "plain", eps=eps)
    assert_close([p.detach() for p in params], [p.detach() for p in twins], **NEAR[dtype])


# --- steps that are called off, where the host may not look


def bits(optimizer: AdamW, params: list[nn.Parameter]) -> list[bytes]:
    tensors = [p.detach() for p in params]
    tensors += [t for p in params for t in optimizer.state.get(p, {}).values()]
    return [tensor.float().numpy().tobytes() for tensor in tensors]


@pytest.mark.usefixtures("as_on_a_device", "traced_only", "unchecked")
@pytest.mark.parametrize("form", ["foreach", "compiled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("eps", [1e-8, 0.0])
def test_on_a_device_a_step_called_off_changes_no_bit(
    form: Literal["foreach", "compiled"], dtype: torch.dtype, eps: float
) -> None:
    params = [nn.Parameter(torch.tensor([-0.0, 0.0, 1.5, -2.0]).to(dtype)) for _ in range(2)]
    twins = copy.deepcopy(params)
    optimizer, twin = (
        AdamW(each, 0.1, form=form, eps=eps, master_weights=True) for each in (params, twins)
    )
    plan = [(False, float("nan")), (True, 1.0), (False, float("inf")), (True, -2.0), (False, 0.0)]
    for finite, value in plan:
        for p in (*params, *twins):
            p.grad = torch.full_like(p, value)
        before = bits(optimizer, params)
        optimizer.masked_step(torch.tensor(finite))
        if finite:
            twin.step()
        elif params[0] in optimizer.state and len(before) > 2:
            assert bits(optimizer, params) == before
        assert [p.detach().tolist() for p in params] == [p.detach().tolist() for p in twins]
    assert bits(optimizer, params) == bits(twin, twins)
    assert optimizer.state[params[0]]["step"] == 2


# --- master weights


@pytest.mark.parametrize("form", ["loop", "foreach"])
def test_master_weights_remember_steps_that_bfloat16_cannot_hold(
    form: Literal["loop", "foreach"],
) -> None:
    def after_a_thousand_steps(*, master: bool) -> float:
        parameter = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
        optimizer = AdamW([parameter], 1e-4, weight_decay=0.0, form=form, master_weights=master)
        for _ in range(1000):
            parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        return parameter[0].item()

    assert after_a_thousand_steps(master=False) == 1  # each step is a fiftieth of a rounding
    # 1000 steps of 1e-4, and half a unit in the last place of bfloat16 below one.
    assert after_a_thousand_steps(master=True) == pytest.approx(0.9, abs=2**-9)


def test_only_narrow_parameters_have_master_weights() -> None:
    params = [nn.Parameter(torch.ones(2, dtype=d)) for d in (torch.bfloat16, torch.float32)]
    optimizer = AdamW(params, 0.1, master_weights=True)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state[params[0]]["master_weight"].dtype == torch.float32
    assert "master_weight" not in optimizer.state[params[1]]


def test_a_state_without_master_weights_gains_them_and_one_with_them_is_not_thrown_away() -> None:
    params = [nn.Parameter(torch.ones(2, dtype=torch.bfloat16))]
    params[0].grad = torch.ones_like(params[0])
    plain, master = AdamW(params, 0.1), AdamW(params, 0.1, master_weights=True)
    plain.step()
    master.load_state_dict(plain.state_dict())
    master.step()
    assert master.state[params[0]]["step"] == 2
    assert torch.equal(master.state[params[0]]["master_weight"].bfloat16(), params[0].detach())
    with pytest.raises(ValueError, match=r"state_dict must be of AdamW, .* got .*master_weight"):
        plain.load_state_dict(master.state_dict())


# --- the step is counted once for all who count alike


def test_parameters_that_step_together_share_their_counter_also_after_loading() -> None:
    params = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    optimizer = AdamW(params, 0.1)
    for p in params[:2]:
        p.grad = torch.ones(2)
    optimizer.step()
    params[2].grad = torch.ones(2)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    first, second, third = (optimizer.state[p]["step"] for p in params)
    assert first is second
    assert (first, third) == (2, 1)


def test_a_checkpoint_of_version_0_1_is_understood() -> None:
    parameter = nn.Parameter(torch.ones(2))
    group = {"lr": 0.1, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "params": [0]}
    moments = {"first_moment": torch.ones(2), "second_moment": torch.ones(2)}
    state = {0: {**moments, "step": torch.tensor(7.0)}}
    optimizer = AdamW([parameter], 0.5)
    optimizer.load_state_dict({"state": state, "param_groups": [group]})
    parameter.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.state[parameter]["step"] == 8


# --- compiled


@pytest.mark.usefixtures("traced_only", "unchecked")
def test_one_program_serves_all_steps_and_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    monkeypatch.setattr(_adamw_forms, "_BACKEND", counter)
    params = [nn.Parameter(torch.randn(3, 4, dtype=torch.float64)) for _ in range(3)]
    twins = copy.deepcopy(params)
    optimizer, loop = AdamW(params, 0.0, form="compiled"), AdamW(twins, 0.0, form="loop")
    for step in range(6):
        for index, p in enumerate((*params, *twins)):
            p.grad = a_gradient(p, "plain", 10 * step + index % 3)
        for each in (optimizer, loop):
            each.param_groups[0].update(
                lr=0.01 * (step + 1), weight_decay=0.1 * step, betas=(0.9 - 0.1 * step, 0.9)
            )
            each.step()
    assert counter.frame_count == 1
    assert_close([p.detach() for p in params], [p.detach() for p in twins], **NEAR[torch.float64])


@pytest.mark.usefixtures("traced_only", "unchecked")
@pytest.mark.parametrize("dtype", NEAR, ids=str)
def test_the_compiled_form_is_the_loop(dtype: torch.dtype) -> None:
    params = [a_parameter((3, 4), dtype, layout) for layout in LAYOUTS]
    twins = copy.deepcopy(params)
    walk("compiled", params, "plain", master_weights=True)
    walk("loop", twins, "plain", master_weights=True)
    assert_close([p.detach() for p in params], [p.detach() for p in twins], **NEAR[dtype])


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("master", [False, True])
def test_what_inductor_makes_of_it_is_the_loop(dtype: torch.dtype, master: bool) -> None:
    params = [a_parameter((33, 17), dtype, layout) for layout in LAYOUTS]
    twins = copy.deepcopy(params)
    walk("compiled", params, "plain", master_weights=master)
    walk("loop", twins, "plain", master_weights=master)
    assert_close([p.detach() for p in params], [p.detach() for p in twins], **NEAR[dtype])


NO_COMPILER = """
import torch
from scratch.optim import AdamW

parameter = torch.nn.Parameter(torch.ones(3))
parameter.grad = torch.ones(3)
optimizer = AdamW([parameter], 0.1, form="compiled")
try:
    optimizer.step()
except RuntimeError as error:
    print(error)
print(parameter.tolist(), optimizer.state[parameter]["step"].item())
"""


@pytest.mark.slow
def test_without_a_compiler_the_compiled_form_says_what_to_do(tmp_path: Any) -> None:
    missing = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", NO_COMPILER],
        env={**os.environ, **missing},
        capture_output=True,
        text=True,
    )
    message, untouched = done.stdout.splitlines()
    assert 'form="compiled" must find the compiler' in message
    assert 'form="foreach" needs none' in message
    assert untouched == "[1.0, 1.0, 1.0] 0.0"


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_form_is_refused() -> None:
    form: Any = "fused"
    with pytest.raises(ValueError, match=r"form must be one of auto, .*, got 'fused'"):
        AdamW([nn.Parameter(torch.ones(1))], 0.1, form=form)
