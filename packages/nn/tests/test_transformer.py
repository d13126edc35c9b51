"""Every variant of the model: its names, its formula, that it is causal and that it learns."""

import copy
import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from scratch.nn import (
    MultiHeadSelfAttention,
    NoNormBlock,
    NoPosition,
    PostNormBlock,
    PreNormBlock,
    SwiGLU,
    TransformerConfig,
    TransformerLM,
    cross_entropy,
    rotary_tables,
)


def config(**changes: Any) -> TransformerConfig:
    sizes = {"vocab_size": 11, "context_length": 8, "d_model": 12, "num_layers": 2}
    return TransformerConfig(**{**sizes, "num_heads": 3, "d_ff": 20, **changes})


def variants() -> list[Any]:
    choices = {
        "norm": ("pre", "post", "none"),
        "feed_forward": ("swiglu", "silu"),
        "position": ("rope", "none"),
        "tie_embeddings": (False, True),
    }
    chosen = [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]
    return [pytest.param(config(**one), id="-".join(map(str, one.values()))) for one in chosen]


every_variant = pytest.mark.parametrize("variant", variants())


# --- names


def expected_shapes(variant: TransformerConfig) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token_embeddings.weight": (11, 12)}
    for layer in ("layers.0", "layers.1"):
        for name in ("q", "k", "v", "output"):
            shapes[f"{layer}.attn.{name}_proj.weight"] = (12, 12)
        shapes[f"{layer}.ffn.w1.weight"] = (20, 12)
        shapes[f"{layer}.ffn.w2.weight"] = (12, 20)
        if variant.feed_forward == "swiglu":
            shapes[f"{layer}.ffn.w3.weight"] = (20, 12)
        if variant.norm != "none":
            shapes[f"{layer}.ln1.weight"] = shapes[f"{layer}.ln2.weight"] = (12,)
    if variant.norm != "none":
        shapes["ln_final.weight"] = (12,)
    if not variant.tie_embeddings:
        shapes["lm_head.weight"] = (11, 12)
    return shapes


@every_variant
def test_state_dicts_hold_the_names_of_the_contract(variant: TransformerConfig) -> None:
    state = TransformerLM(variant).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == expected_shapes(variant)


@every_variant
def test_every_weight_that_is_saved_learns_and_no_other(variant: TransformerConfig) -> None:
    model = TransformerLM(variant)
    assert {name for name, _ in model.named_parameters()} == set(model.state_dict())
    model(torch.arange(8)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.count_nonzero() > 0, name


def test_a_tied_head_is_the_embedding() -> None:
    model = TransformerLM(config(tie_embeddings=True))
    assert model.head_weight is model.token_embeddings.weight


def test_an_untied_head_is_its_own() -> None:
    model = TransformerLM(config())
    assert model.head_weight is not model.token_embeddings.weight
    assert torch.equal(model.head_weight, model.state_dict()["lm_head.weight"])


@pytest.mark.parametrize(("tied", "sd"), [(True, 400**-0.5), (False, 1.0)])
def test_a_tied_embedding_starts_small(*, tied: bool, sd: float) -> None:
    model = TransformerLM(config(vocab_size=1000, d_model=400, num_heads=4, tie_embeddings=tied))
    weight = model.token_embeddings.weight.detach()
    # 400,000 draws; the cut at three takes 1.3 % of the standard deviation.
    assert weight.std().item() == pytest.approx(0.98658 * sd, rel=0.01)
    assert weight.abs().max().item() <= 3 * sd * (1 + 1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_a_fresh_model_knows_nothing(*, tied: bool) -> None:
    sizes = {"vocab_size": 512, "d_model": 64, "num_heads": 4, "d_ff": 192, "context_length": 64}
    model = TransformerLM(config(**sizes, tie_embeddings=tied))
    ids, targets = torch.randint(512, (2, 8, 64))
    # Logits of a standard deviation near 1 add about a half to the loss of a uniform guess.
    assert math.log(512) - 0.05 < cross_entropy(model(ids), targets).item() < math.log(512) + 0.6


# --- formula


def turn(x: Tensor) -> Tensor:
    """Oracle: complex multiplication by the tables' own float32 numbers."""
    cos, sin = rotary_tables(x.shape[-1], x.shape[-2])
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.complex(cos.double(), sin.double())).flatten(-2)


def plain(variant: TransformerConfig, weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    """Oracle: the model from PyTorch's own functions."""

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.rms_norm(x, (12,), weights[f"{name}.weight"], 1e-5)

    def attention(x: Tensor, name: str) -> Tensor:
        q, k, v = (
            functional.linear(x, weights[f"{name}.attn.{part}_proj.weight"])
            .unflatten(-1, (3, 4))
            .transpose(-3, -2)
            for part in "qkv"
        )
        if variant.position == "rope":
            q, k = turn(q), turn(k)
        heads = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        joined = heads.transpose(-3, -2).flatten(-2)
        return functional.linear(joined, weights[f"{name}.attn.output_proj.weight"])

    def feed_forward(x: Tensor, name: str) -> Tensor:
        inner = functional.silu(functional.linear(x, weights[f"{name}.ffn.w1.weight"]))
        if variant.feed_forward == "swiglu":
            inner = inner * functional.linear(x, weights[f"{name}.ffn.w3.weight"])
        return functional.linear(inner, weights[f"{name}.ffn.w2.weight"])

    x = functional.embedding(ids, weights["token_embeddings.weight"])
    for name in ("layers.0", "layers.1"):
        if variant.norm == "pre":
            x = x + attention(norm(x, f"{name}.ln1"), name)
            x = x + feed_forward(norm(x, f"{name}.ln2"), name)
        elif variant.norm == "post":
            x = norm(x + attention(x, name), f"{name}.ln1")
            x = norm(x + feed_forward(x, name), f"{name}.ln2")
        else:
            x = x + attention(x, name)
            x = x + feed_forward(x, name)
    if variant.norm != "none":
        x = norm(x, "ln_final")
    head = "token_embeddings" if variant.tie_embeddings else "lm_head"
    return functional.linear(x, weights[f"{head}.weight"])


def off_its_start(model: TransformerLM) -> TransformerLM:
    """Give every weight, the gains of the norms too, a value of its own."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


@every_variant
def test_the_model_is_the_one_of_its_formula(variant: TransformerConfig) -> None:
    model, ids = off_its_start(TransformerLM(variant)).double(), torch.randint(11, (2, 7))
    expected = plain(variant, model.state_dict(), ids)
    # Two layers in float64; a detour through float32 would be off by 1e-7.
    assert_close(model(ids), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (2, 3, 5), (0, 5), (2, 1)], ids=str)
def test_any_number_of_leading_axes_will_do(shape: tuple[int, ...]) -> None:
    model, ids = TransformerLM(config()), torch.randint(11, shape)
    logits = model(ids)
    assert logits.shape == (*shape, 11)
    rows = zip(logits.reshape(-1, shape[-1], 11), ids.reshape(-1, shape[-1]), strict=True)
    for row, alone in rows:
        assert_close(row, model(alone), rtol=1e-5, atol=1e-5)  # float32, summed in another order


@every_variant
def test_the_head_reads_the_hidden_states(variant: TransformerConfig) -> None:
    model, ids = TransformerLM(variant), torch.randint(11, (2, 5))
    hidden = model.hidden(ids)
    assert hidden.shape == (2, 5, 12)
    assert_close(model(ids), hidden @ model.head_weight.T, rtol=1e-5, atol=1e-5)


@every_variant
def test_no_logit_depends_on_a_later_token(variant: TransformerConfig) -> None:
    model, ids = TransformerLM(variant), torch.randint(11, (3, 8))
    changed = ids.clone()
    changed[:, 5:] = (ids[:, 5:] + torch.randint(1, 11, (3, 3))) % 11
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert (before[:, 5] != after[:, 5]).any()


def test_the_order_of_earlier_tokens_matters_with_rope_and_not_without_position() -> None:
    ids, swapped = torch.tensor([1, 2, 3, 4]), torch.tensor([2, 1, 3, 4])
    # One layer: in a deeper one, what a token has seen tells its position.
    with_rope = TransformerLM(config(num_layers=1))
    without = TransformerLM(config(num_layers=1, position="none"))
    assert (with_rope(ids)[-1] - with_rope(swapped)[-1]).abs().max() > 1e-3
    assert_close(without(ids)[-1], without(swapped)[-1], rtol=1e-5, atol=1e-5)


# --- blocks


@pytest.mark.parametrize("block", [PreNormBlock, PostNormBlock, NoNormBlock])
def test_a_block_hands_positions_to_its_attention(
    block: type[PreNormBlock | PostNormBlock | NoNormBlock],
) -> None:
    seen: list[Tensor] = []

    class Spy(NoPosition):
        def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
            assert positions is not None
            seen.append(positions)
            return x

    layer = block(12, MultiHeadSelfAttention(12, 3, position=Spy()), SwiGLU(12, 20))
    layer(torch.randn(2, 4, 12), torch.arange(4) + 10)
    assert [positions.flatten().tolist() for positions in seen] == 2 * [[10, 11, 12, 13]]


# --- dtypes and devices


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.01), (torch.float64, 1e-5)]
)
def test_a_cast_model_answers_about_the_same_in_its_dtype(
    dtype: torch.dtype, tolerance: float
) -> None:
    model, ids = TransformerLM(config()), torch.randint(11, (2, 8))
    logits = copy.deepcopy(model).to(dtype)(ids)
    assert logits.dtype == dtype
    assert_close(logits.float(), model(ids), rtol=0, atol=tolerance)  # logits are of size 1


@every_variant
def test_a_model_made_on_the_meta_device_takes_a_state_dict(variant: TransformerConfig) -> None:
    model, ids = TransformerLM(variant), torch.randint(11, (2, 8))
    with torch.device("meta"):
        empty = TransformerLM(variant)
    twin = empty.to_empty(device="cpu")
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(ids), model(ids))


def test_on_the_meta_device_shapes_are_found_without_numbers() -> None:
    with torch.device("meta"):
        model, ids = TransformerLM(config()), torch.zeros(2, 8, dtype=torch.int64)
        assert model(ids).shape == (2, 8, 11)
        model.loss(ids, ids).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.usefixtures("unchecked")
def test_the_whole_model_compiles_into_one_graph() -> None:
    model, ids = TransformerLM(config()), torch.randint(11, (2, 8))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_close(compiled(ids), model(ids), rtol=1e-5, atol=1e-5)


# --- learning


def gradient_step(model: TransformerLM, ids: Tensor, lr: float) -> float:
    loss = cross_entropy(model(ids[:, :-1]), ids[:, 1:])
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(gradient, alpha=lr)
    return loss.item()


@every_variant
def test_one_step_down_the_gradient_lowers_the_loss(variant: TransformerConfig) -> None:
    model, ids = TransformerLM(variant), torch.randint(11, (4, 9))
    before, after = (gradient_step(model, ids, lr=0.01) for _ in range(2))
    assert after < before - 1e-3


def test_a_batch_can_be_learned_by_heart() -> None:
    model = TransformerLM(config(d_model=32, num_heads=4, d_ff=64, vocab_size=32))
    ids = torch.randint(32, (4, 9))
    ids[:, 0] = torch.arange(4)  # the first token tells which sequence it is
    losses = [gradient_step(model, ids, lr=0.3) for _ in range(300)]
    assert losses[0] > 3  # near log 32
    assert losses[-1] < 0.01


# --- refusals


def test_refuses_a_sequence_longer_than_the_context() -> None:
    with pytest.raises(ValueError, match="ids must be at most context_length=8 long, got 9"):
        TransformerLM(config())(torch.zeros(1, 9, dtype=torch.int64))


@pytest.mark.parametrize("wrong", [-1, 11])
def test_refuses_an_id_outside_of_the_vocabulary(wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"ids must be in 0 \.\. 10 .*, got {wrong}"):
        TransformerLM(config())(torch.tensor([[0, wrong]]))


@pytest.mark.usefixtures("unchecked")
def test_refuses_ids_that_are_no_whole_numbers() -> None:
    with pytest.raises(TypeError, match="ids must be whole numbers"):
        TransformerLM(config())(torch.zeros(1, 3))


def test_a_state_dict_of_another_shape_is_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        TransformerLM(config()).load_state_dict(TransformerLM(config(d_ff=21)).state_dict())
    tied = TransformerLM(config(tie_embeddings=True))
    with pytest.raises(RuntimeError, match="lm_head"):
        tied.load_state_dict(TransformerLM(config()).state_dict())
