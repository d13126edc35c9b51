"""Fast forms are plain forms, to rounding: results, gradients, any shape, strides and dtype."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.testing import assert_close

from scratch.nn import (
    RMSNorm,
    RotaryEmbedding,
    SwiGLU,
    TransformerConfig,
    TransformerLM,
    plain_forms,
)
from scratch.nn._fused_gate import FusedSiLUGate

# Each form rounds a handful of times, in its own order.
ULPS = 16
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
BATCHES = ((), (3,), (2, 3), (0, 3), (1,))
LAYOUTS = ("contiguous", "every other", "odd offset", "columns", "turned around")

shapes = st.sampled_from(BATCHES)
dtypes = st.sampled_from(DTYPES)
layouts = st.sampled_from(LAYOUTS)
many = settings(deadline=None, derandomize=True, max_examples=60, database=None)


def lay(x: Tensor, layout: str) -> Tensor:
    """Return the same numbers with other strides."""
    if layout == "every other":
        return torch.stack((x, x), -1).flatten(-2)[..., ::2]
    if layout == "odd offset":
        return torch.cat((x[..., :1], x, x[..., :1]), -1)[..., 1:-1]
    if layout == "columns" and x.ndim > 1:
        return x.mT.contiguous().mT
    if layout == "turned around" and x.ndim > 2:
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    return x.contiguous()


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def result_and_gradients(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], g: Tensor
) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    result = function(*leaves)
    return [result.detach(), *torch.autograd.grad(result, leaves, g)]


def assert_same_forms(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], g: Tensor, *, scale: float
) -> None:
    """Compare both forms; `scale` is the size of the largest terms that are summed."""
    fast = result_and_gradients(function, inputs, g)
    with plain_forms():
        plain = result_and_gradients(function, inputs, g)
    atol = ULPS * torch.finfo(g.dtype).eps * scale
    for one, other in zip(fast, plain, strict=True):
        assert_close(one, other, rtol=0, atol=atol)  # and the same dtype, and no NaN


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return functional_call(RMSNorm(x.shape[-1]), {"weight": weight}, (x,))


def gated(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor) -> Tensor:
    weights = {"w1.weight": w1, "w2.weight": w2, "w3.weight": w3}
    return functional_call(SwiGLU(x.shape[-1], len(w1)), weights, (x,))


def rotation(positions: Tensor | None) -> Callable[[Tensor], Tensor]:
    return lambda x: RotaryEmbedding(x.shape[-1], 64)(x, positions)


# --- equal forms


@many
@given(shapes, st.integers(1, 9), dtypes, layouts, layouts)
def test_both_forms_of_the_norm_agree(
    batch: tuple[int, ...], d_model: int, dtype: torch.dtype, layout: str, layout_of_g: str
) -> None:
    x, g = (normal(*batch, d_model, dtype=dtype, seed=seed) for seed in (1, 2))
    weight = 1 + normal(d_model, dtype=dtype, seed=3)
    rms = (x.double().square().mean(-1) + 1e-5).sqrt()
    # The weight's gradient sums over rows, the input's is divided by the root mean square.
    scale = 40.0 if x.numel() == 0 else 40 * max(1.0, 1 / rms.min().item())
    assert_same_forms(norm, (lay(x, layout), weight), lay(g, layout_of_g), scale=scale)


@many
@given(shapes, st.integers(1, 9), dtypes, layouts, layouts)
def test_both_forms_of_the_gate_agree(
    batch: tuple[int, ...], d_ff: int, dtype: torch.dtype, layout: str, layout_of_g: str
) -> None:
    x, g = normal(*batch, 4, dtype=dtype, seed=1), normal(*batch, 4, dtype=dtype, seed=2)
    weights = (normal(*size, dtype=dtype, seed=3) / 2 for size in ((d_ff, 4), (4, d_ff), (d_ff, 4)))
    # Sums over at most nine features and six rows of products of four normal numbers.
    inputs = (lay(x, layout), *weights)
    assert_same_forms(gated, inputs, lay(g, layout_of_g), scale=40.0)


@many
@given(
    st.sampled_from(((), (2,), (2, 3), (0,))), st.integers(0, 3), st.integers(1, 4),
    dtypes, layouts, layouts,
)  # fmt: skip
def test_both_forms_of_the_rotation_agree(
    batch: tuple[int, ...], axes: int, pairs: int, dtype: torch.dtype, layout: str, layout_of_g: str
) -> None:
    x, g = (normal(*batch, 5, 2 * pairs, dtype=dtype, seed=seed) for seed in (1, 2))
    positions = None
    if axes:  # positions of fewer axes than x, or with an axis of one
        shape = (*(size if axes > 2 else 1 for size in batch), 5)[-axes:]
        positions = torch.randint(64, shape, generator=torch.Generator().manual_seed(4))
    function = rotation(positions)
    assert_same_forms(function, (lay(x, layout),), lay(g, layout_of_g), scale=1.0)


def test_a_rotated_tensor_may_start_anywhere_in_its_storage() -> None:
    numbers = torch.randn(5 * 8 + 1)
    for start in (0, 1):
        x = numbers[start : start + 40].view(5, 8)[:, :6]
        assert_close(rotation(None)(x), rotation(None)(x.clone()), rtol=0, atol=1e-6)  # float32


@pytest.mark.parametrize("norm_kind", ["pre", "post", "none"])
def test_both_forms_of_the_model_agree(norm_kind: str) -> None:
    model, ids, targets = tiny_model(norm=norm_kind), *torch.randint(11, (2, 2, 7))
    names = [name for name, _ in model.named_parameters()]

    def loss(*weights: Tensor) -> Tensor:
        return functional_call(Loss(model), dict(zip(names, weights, strict=True)), (ids, targets))

    names = [f"model.{name}" for name in names]
    # Two layers in float64; a detour through float32 would be off by 1e-7.
    assert_same_forms(loss, tuple(model.parameters()), torch.ones(()).double(), scale=1e3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_numbers_are_normed_in_float32(dtype: torch.dtype) -> None:
    x, weight = torch.full((2, 8), 256.0, dtype=dtype), torch.ones(8, dtype=dtype)
    result, d_x, _ = result_and_gradients(norm, (x, weight), torch.ones_like(x))
    assert_close(result, torch.ones_like(x))  # 256 squared is infinite in float16
    assert d_x.abs().max() < 1e-6  # scaling all features changes nothing


# --- gradients


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_gradients_are_those_of_finite_differences(batch: tuple[int, ...], layout: str) -> None:
    def check(function: Callable[..., Tensor], *inputs: Tensor) -> None:
        leaves = [x.detach().requires_grad_() for x in inputs]
        assert torch.autograd.gradcheck(function, leaves)

    x = normal(*batch, 4, seed=1)
    other = normal(*batch, 4, seed=2)
    check(norm, lay(x, layout), 1 + normal(4, seed=2))
    check(FusedSiLUGate.apply, lay(x, layout), lay(other, layout))
    if batch:
        check(rotation(None), lay(x, layout))
        check(rotation(torch.randint(64, (batch[-1],))), lay(x, layout))


def test_a_gradient_that_is_one_number_seen_many_times_is_taken() -> None:
    for function, inputs in (
        (norm, (normal(2, 3, 4), normal(4))),
        (gated, (normal(2, 3, 4), normal(5, 4), normal(4, 5), normal(5, 4))),
        (rotation(None), (normal(2, 3, 4),)),
    ):
        result = function(*inputs)
        assert_same_forms(function, inputs, torch.ones(()).double().expand_as(result), scale=1e3)


# --- once and twice


def tiny_model(**changes: Any) -> TransformerLM:
    sizes = {"vocab_size": 11, "context_length": 8, "d_model": 8, "num_layers": 2}
    config = TransformerConfig(**{**sizes, "num_heads": 2, "d_ff": 6, **changes})
    return TransformerLM(config).double()


class Loss(nn.Module):
    """The loss of a model as a call, for those who call modules."""

    def __init__(self, model: TransformerLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        return self.model.loss(ids, targets)


def differentiate_twice(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    x, *_ = leaves = [x.detach().requires_grad_() for x in inputs]
    (gradient,) = torch.autograd.grad(function(*leaves).square().sum(), x, create_graph=True)
    gradient.square().sum().backward()


TWICE: list[Any] = [
    pytest.param(norm, (normal(3, 4), normal(4)), id="norm"),
    pytest.param(gated, (normal(3, 4), normal(5, 4), normal(4, 5), normal(5, 4)), id="gate"),
    pytest.param(rotation(None), (normal(3, 4),), id="rotation"),
]


@pytest.mark.parametrize(("function", "inputs"), TWICE)
def test_a_second_derivative_is_refused(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...]
) -> None:
    with pytest.raises(RuntimeError, match="differentiated once"):
        differentiate_twice(function, *inputs)


@pytest.mark.parametrize(("function", "inputs"), TWICE)
def test_plain_forms_have_a_second_derivative(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...]
) -> None:
    leaves = [x.detach().requires_grad_() for x in inputs]
    with plain_forms():
        assert torch.autograd.gradgradcheck(function, leaves)


def test_the_model_has_a_second_derivative_in_plain_forms_only() -> None:
    model, ids, targets = tiny_model(num_layers=1), *torch.randint(11, (2, 1, 3))
    weights = dict(model.named_parameters())
    names = [f"model.layers.0.{name}.weight" for name in ("ln1", "attn.q_proj", "ffn.w1")]

    def loss(*values: Tensor) -> Tensor:
        return functional_call(Loss(model), dict(zip(names, values, strict=True)), (ids, targets))

    inputs = [weights[name.removeprefix("model.")] for name in names]
    with plain_forms():
        assert torch.autograd.gradgradcheck(loss, inputs, fast_mode=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        differentiate_twice(loss, *inputs)


def test_plain_forms_can_be_transformed() -> None:
    model, ids, targets = tiny_model(num_layers=1), *torch.randint(11, (2, 2, 3))
    weights = {f"model.{name}": value.detach() for name, value in model.named_parameters()}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return functional_call(Loss(model), weights, (ids, targets))

    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(loss)(weights)
    with plain_forms():
        gradients = torch.func.grad(loss)(weights)
    model.loss(ids, targets).backward()
    for name, parameter in model.named_parameters():
        assert_close(gradients[f"model.{name}"], parameter.grad, rtol=1e-10, atol=1e-13)


# --- the context


def is_plain() -> bool:
    """Tell the forms apart by what only the plain ones do."""
    try:
        differentiate_twice(norm, normal(3, 4), normal(4))
    except RuntimeError:
        return False
    return True


def test_plain_forms_end_with_their_context() -> None:
    assert not is_plain()
    with plain_forms():
        assert is_plain()
        with plain_forms():
            assert is_plain()
        assert is_plain()
    assert not is_plain()


def test_plain_forms_end_with_an_exception_too() -> None:
    with pytest.raises(KeyError), plain_forms():
        raise KeyError
    assert not is_plain()


def test_plain_forms_are_of_one_thread() -> None:
    seen: list[bool] = []
    with plain_forms():
        thread = threading.Thread(target=lambda: seen.append(is_plain()))
        thread.start()
        thread.join()
    assert seen == [False]


# --- what is kept


@contextmanager
def counted() -> Iterator[list[int]]:
    """Give the number of bytes of each tensor that is kept for the gradient, each once."""
    sizes: list[int] = []
    seen: set[int] = set()
    alive: list[Tensor] = []

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            sizes.append(storage.nbytes())
            alive.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield sizes


@pytest.mark.parametrize(
    ("layer", "most"),
    # In tensors of the size of the input, weights included.
    [(RMSNorm(64), 1.2), (SwiGLU(64, 64), 5.2), (RotaryEmbedding(64, 128), 1.2)],
    ids=["norm", "gate", "rotation"],
)
def test_fast_forms_keep_less(layer: nn.Module, most: float) -> None:
    x = torch.randn(32, 128, 64, requires_grad=True)
    kept: dict[str, int] = {}
    forms: dict[str, AbstractContextManager[None]] = {"fast": nullcontext(), "plain": plain_forms()}
    for form, context in forms.items():
        with context, counted() as sizes:
            layer(x)
        kept[form] = sum(sizes)
    assert kept["fast"] <= most * x.nbytes
    assert kept["fast"] <= kept["plain"]


# --- autocast


@pytest.mark.parametrize("variant", [{}, {"norm": "post", "tie_embeddings": True}], ids=str)
def test_the_model_learns_about_the_same_under_autocast(variant: dict[str, Any]) -> None:
    sizes = {"d_model": 64, "num_heads": 4, "d_ff": 192, "vocab_size": 50, "context_length": 32}
    model, (ids, targets) = tiny_model(**sizes, **variant).float(), torch.randint(50, (2, 4, 32))

    def gradients(enabled: bool) -> list[Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = model.loss(ids, targets)
        return list(torch.autograd.grad(loss, list(model.parameters())))

    for narrow, wide in zip(gradients(enabled=True), gradients(enabled=False), strict=True):
        assert narrow.dtype == torch.float32
        # bfloat16 rounds to 0.4 %, a dozen times on the way through two layers.
        assert (narrow - wide).norm() < 0.03 * wide.norm()


def test_the_norm_under_autocast_is_off_by_its_rounding_only() -> None:
    x, weight = torch.randn(5, 64), torch.randn(64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = norm(x, weight)
    half_a_unit = torch.finfo(torch.bfloat16).eps / 2
    assert_close(narrow.float(), norm(x, weight), rtol=half_a_unit, atol=0)
