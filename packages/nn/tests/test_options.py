"""The options of the model, each against the plain way to say the same."""

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from scratch.nn import (
    MultiHeadSelfAttention,
    NoPosition,
    ReLUSquaredFeedForward,
    RMSNorm,
    RotaryEmbedding,
    TransformerConfig,
    TransformerLM,
    default_d_ff,
    fast_matmul,
    ntk_theta,
    plain_forms,
    relu_squared,
    relu_squared_feed_forward,
    rotary_tables,
)

# Two layers in float64; a detour through float32 would be off by 1e-7.
EXACT = {"rtol": 1e-10, "atol": 1e-11}
OPTIONS: list[dict[str, Any]] = [
    {"num_kv_heads": 2},
    {"num_kv_heads": 1, "qk_norm": "rms"},
    {"feed_forward": "relu2"},
    {"sliding_window": 3},
    {"logit_cap": 2.0},
    {"rope_scaling": "linear", "rope_factor": 4.0},
    {"rope_scaling": "ntk", "rope_factor": 4.0},
    {"checkpointing": "block"},
    {"pad_vocab_to": 8},
]


def config(**changes: Any) -> TransformerConfig:
    sizes = {"vocab_size": 11, "context_length": 12, "d_model": 16, "num_layers": 2}
    return TransformerConfig(**{**sizes, "num_heads": 4, "d_ff": 20, **changes})


def lm(**changes: Any) -> TransformerLM:
    """Return the model of a configuration, every weight with a value of its own."""
    torch.manual_seed(8)
    model = TransformerLM(config(**changes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def some_ids() -> Tensor:
    return torch.randint(11, (2, 12), generator=torch.Generator().manual_seed(9))


# --- names


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        (
            {"num_kv_heads": 2},
            {"attn.k_proj.weight": (8, 16), "attn.v_proj.weight": (8, 16)},
        ),
        ({"qk_norm": "rms"}, {"attn.q_norm.weight": (4,), "attn.k_norm.weight": (4,)}),
        (
            {"feed_forward": "relu2"},
            {"ffn.w1.weight": (20, 16), "ffn.w2.weight": (16, 20), "ffn.w3.weight": None},
        ),
        *[(options, {}) for options in OPTIONS[3:]],
    ],
    ids=str,
)
def test_state_dicts_hold_the_names_of_the_contract(
    options: dict[str, Any], changed: dict[str, tuple[int, ...] | None]
) -> None:
    def shapes(model: TransformerLM) -> dict[str, tuple[int, ...]]:
        return {name: tuple(value.shape) for name, value in model.state_dict().items()}

    expected: dict[str, tuple[int, ...] | None] = dict(shapes(lm()))
    expected |= {f"layers.{i}.{name}": shape for i in (0, 1) for name, shape in changed.items()}
    assert shapes(lm(**options)) == {name: shape for name, shape in expected.items() if shape}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_weight_learns(options: dict[str, Any]) -> None:
    model, ids = lm(**options), some_ids()
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.count_nonzero() > 0, name


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_both_forms_agree(options: dict[str, Any]) -> None:
    model, ids = lm(**options), some_ids()
    parameters = list(model.parameters())

    def logits_loss_and_gradients() -> list[Tensor]:
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        return [model(ids), loss, *torch.autograd.grad(loss, parameters)]

    fast = logits_loss_and_gradients()
    with plain_forms():
        plain = logits_loss_and_gradients()
    for one, other in zip(fast, plain, strict=True):
        assert_close(one, other, **EXACT)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_no_logit_depends_on_a_later_token(options: dict[str, Any]) -> None:
    model, ids = lm(**options), some_ids()
    changed = ids.clone()
    changed[:, 7:] = (ids[:, 7:] + 1) % 11
    before, after = model(ids), model(changed)
    assert_close(before[:, :7], after[:, :7], **EXACT)
    assert (before[:, 7] != after[:, 7]).any()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_loss_is_that_of_the_logits(options: dict[str, Any]) -> None:
    model, ids = lm(**options), some_ids()
    expected = functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
    assert_close(model.loss(ids, ids), expected, **EXACT)


@pytest.mark.parametrize("scored", [1, 3])
def test_fewer_targets_are_those_of_the_last_positions(scored: int) -> None:
    model, ids = lm(logit_cap=5.0), some_ids()
    targets = ids.flip(-1)[:, :scored]
    expected = functional.cross_entropy(model(ids)[:, -scored:].flatten(0, 1), targets.flatten())
    assert_close(model.loss(ids, targets), expected, **EXACT)
    with pytest.raises(ValueError, match="targets must be at most as many as ids"):
        model.loss(ids, torch.cat([ids, ids], 1))


# --- fewer heads of keys and values


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_shared_heads_are_repeated_heads(kv_heads: int) -> None:
    position = RotaryEmbedding(4, 12)
    shared = MultiHeadSelfAttention(16, 4, position=position, num_kv_heads=kv_heads).double()
    full = MultiHeadSelfAttention(16, 4, position=position).double()
    weights = shared.state_dict()
    for name in ("k_proj.weight", "v_proj.weight"):
        heads = weights[name].view(kv_heads, 4, 16)
        weights[name] = heads.repeat_interleave(4 // kv_heads, 0).reshape(16, 16)
    full.load_state_dict(weights)
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    assert_close(shared(x), full(x), **EXACT)


def test_by_default_every_head_has_its_own_keys_and_values() -> None:
    assert config().kv_heads == 4
    assert config(num_kv_heads=2).kv_heads == 2
    ids = some_ids()
    assert torch.equal(lm()(ids), lm(num_kv_heads=4)(ids))


# --- normed queries and keys


def test_queries_and_keys_are_normed_in_each_head_before_they_are_turned() -> None:
    position = RotaryEmbedding(4, 12)
    layer = MultiHeadSelfAttention(16, 4, position=position, num_kv_heads=2, qk_norm=RMSNorm)
    layer = layer.double()
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    with torch.no_grad():
        for norm in (layer.q_norm, layer.k_norm):
            norm.weight.copy_(torch.rand(4) + 0.5)  # pyright: ignore[reportCallIssue, reportArgumentType]
    weights = layer.state_dict()

    def heads(name: str) -> Tensor:
        projected = functional.linear(x, weights[f"{name}_proj.weight"])
        return projected.unflatten(-1, (-1, 4)).transpose(1, 2)

    def normed(name: str) -> Tensor:
        return position(
            functional.rms_norm(heads(name), (4,), weights[f"{name}_norm.weight"], 1e-5)
        )

    q, k, v = normed("q"), *(y.repeat_interleave(2, 1) for y in (normed("k"), heads("v")))
    attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    joined = attended.transpose(1, 2).flatten(-2)
    assert_close(layer(x), functional.linear(joined, weights["output_proj.weight"]), **EXACT)


def test_with_norms_the_size_of_queries_and_keys_does_not_matter() -> None:
    model, ids = lm(qk_norm="rms"), some_ids()
    before = model(ids)
    with torch.no_grad():
        for layer in model.layers:
            layer.attn.q_proj.weight *= 1000  # pyright: ignore
            layer.attn.k_proj.weight *= 1000  # pyright: ignore
    # The norms' 1e-5 beside mean squares of one half matters no more at a million times that.
    assert_close(model(ids), before, rtol=0, atol=0.01)


# --- the squared ReLU


def test_a_squared_relu_is_zero_below_and_the_square_above() -> None:
    x = torch.tensor([-2.0, -0.0, 0.0, 0.5, 3.0], requires_grad=True)
    result = relu_squared(x)
    assert result.tolist() == [0, 0, 0, 0.25, 9]
    result.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 0, 1, 6]


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)], ids=str)
def test_the_feed_forward_network_of_the_squared_relu(batch: tuple[int, ...]) -> None:
    layer, x = ReLUSquaredFeedForward(6, 24).double(), torch.randn(*batch, 6).double()
    w1, w2 = layer.w1.weight, layer.w2.weight
    expected = functional.linear(functional.relu(functional.linear(x, w1)) ** 2, w2)
    assert_close(layer(x), expected, **EXACT)
    assert_close(relu_squared_feed_forward(x, w1, w2), expected, **EXACT)


def test_the_squared_relu_gets_four_times_the_width() -> None:
    assert default_d_ff(100, "relu2") == 400


# --- the window


@pytest.mark.parametrize("window", [1, 2, 5])
def test_within_a_window_is_what_attention_with_a_mask_sees(window: int) -> None:
    torch.manual_seed(8)
    model = lm(num_layers=1, sliding_window=window)
    ids = some_ids()
    distance = torch.arange(12)[:, None] - torch.arange(12)
    mask = (distance >= 0) & (distance < window)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v, mask)

    assert_close(model.hidden(ids), model.hidden(ids, attend=[attend]), **EXACT)


def test_each_layer_sees_a_window_further() -> None:
    model, ids = lm(sliding_window=3), some_ids()
    changed = ids.clone()
    changed[:, 2] = (ids[:, 2] + 1) % 11
    moved = (model(ids) - model(changed)).abs().amax((0, 2)) > 1e-9
    # Two layers of windows of three: what stands at 2 is seen by 2 .. 6.
    assert moved.tolist() == [2 <= position <= 6 for position in range(12)]


def test_a_window_as_long_as_the_context_is_none() -> None:
    ids = some_ids()
    for window in (12, 13, 1000):
        assert_close(lm(sliding_window=window)(ids), lm()(ids), **EXACT)


# --- the cap and the padding of the head


def test_capped_logits_are_the_tanh_of_the_others() -> None:
    ids = some_ids()
    logits = lm()(ids)
    assert logits.abs().max() > 2
    assert_close(lm(logit_cap=2.0)(ids), 2 * torch.tanh(logits / 2), **EXACT)


@pytest.mark.parametrize("multiple", [1, 8, 11, 64])
def test_the_padding_of_the_head_does_not_show(multiple: int) -> None:
    ids, model, other = some_ids(), lm(pad_vocab_to=multiple), lm(pad_vocab_to=1)
    assert model(ids).shape == (2, 12, 11)
    assert_close(model(ids), other(ids), **EXACT)
    for one in (model, other):
        one.loss(ids, ids, z_loss=0.1).backward()
    for one, another in zip(model.parameters(), other.parameters(), strict=True):
        assert one.grad is not None
        assert one.grad.shape == one.shape
        assert_close(one.grad, another.grad, **EXACT)


# --- longer contexts


def test_linear_scaling_divides_the_positions() -> None:
    cos, sin = rotary_tables(8, 40)
    stretched_cos, stretched_sin = rotary_tables(8, 157, stretch=4.0)
    assert torch.equal(stretched_cos[::4], cos)
    assert torch.equal(stretched_sin[::4], sin)
    # And between them lie the angles between.
    quarter = torch.atan2(stretched_sin[1].double(), stretched_cos[1].double())
    assert_close(4 * quarter, torch.atan2(sin[1].double(), cos[1].double()), rtol=1e-6, atol=0)


def test_a_linearly_scaled_model_sees_positions_divided() -> None:
    model, scaled = lm(position="none"), lm(rope_scaling="linear", rope_factor=3.0)
    plain, ids = lm(), some_ids()
    assert not torch.equal(scaled(ids), plain(ids))
    far = 3 * torch.arange(4)
    assert_close(scaled.hidden(ids[:, :4], far), plain.hidden(ids[:, :4]), **EXACT)
    assert not torch.equal(model(ids), plain(ids))


@pytest.mark.parametrize("d_head", [4, 64, 128])
@pytest.mark.parametrize("factor", [2.0, 8.0, 0.5])
def test_ntk_scaling_slows_the_slowest_pair_by_the_factor_and_the_fastest_not(
    d_head: int, factor: float
) -> None:
    theta = ntk_theta(10_000.0, factor, d_head)
    pairs = torch.arange(0, d_head, 2).double() / d_head
    slower = 10_000.0**-pairs / theta**-pairs
    assert slower[0].item() == 1
    assert slower[-1].item() == pytest.approx(factor, rel=1e-12)
    steps = slower.diff() if factor > 1 else -slower.diff()
    assert (steps > 0).all()


def test_a_single_pair_has_no_slowest_one() -> None:
    assert ntk_theta(10_000.0, 8.0, 2) == 10_000.0


def test_an_ntk_scaled_model_is_one_of_a_larger_theta() -> None:
    theta, ids = 10_000.0 * 4 ** (4 / 2), some_ids()
    scaled = lm(rope_scaling="ntk", rope_factor=4.0)
    assert torch.equal(scaled(ids), lm(rope_theta=theta)(ids))


def test_scaled_tables_outlive_a_cast() -> None:
    rope = RotaryEmbedding(8, 40, theta=500.0, stretch=4.0)
    before = rope.cos.clone()
    assert torch.equal(rope.to(torch.bfloat16).cos, before)
    assert not torch.equal(RotaryEmbedding(8, 40, theta=500.0).cos, before)


# --- checkpointing


def kept_bytes(model: TransformerLM, ids: Tensor) -> int:
    kept: dict[int, Tensor] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x
        return x

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = model.loss(ids, ids)
    assert loss.requires_grad
    return sum(x.untyped_storage().nbytes() for key, x in kept.items() if key not in weights)


def gradients(model: TransformerLM, ids: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(model.loss(ids, ids), list(model.parameters())))


@pytest.mark.parametrize("options", OPTIONS[:6], ids=str)
def test_what_is_computed_again_is_the_same_to_the_bit(options: dict[str, Any]) -> None:
    ids = some_ids()
    plain, checkpointed = lm(**options), lm(**options, checkpointing="block")
    assert torch.equal(plain(ids), checkpointed(ids))
    assert torch.equal(plain.loss(ids, ids), checkpointed.loss(ids, ids))
    for one, other in zip(gradients(plain, ids), gradients(checkpointed, ids), strict=True):
        assert torch.equal(one, other)


def test_checkpointing_keeps_the_inputs_of_the_blocks_only() -> None:
    ids = some_ids()
    plain, few = (kept_bytes(lm(checkpointing=kind), ids) for kind in ("none", "block"))
    more = kept_bytes(lm(checkpointing="block", num_layers=5), ids)
    assert few < plain / 3
    assert more - few == 3 * (2 * 12 * 16 * 8)  # one input for each further block, in float64


def test_without_gradients_nothing_is_kept_to_be_computed_again() -> None:
    with torch.no_grad():
        assert not lm(checkpointing="block")(some_ids()).requires_grad


def test_a_block_is_computed_again_in_the_form_of_the_first_time() -> None:
    ids, model = some_ids(), lm(checkpointing="block")
    expected = gradients(lm(), ids)
    for before, after in ((plain_forms, nullcontext), (nullcontext, plain_forms)):
        with before():
            loss = model.loss(ids, ids)
        with after():
            actual = torch.autograd.grad(loss, list(model.parameters()))
        for one, other in zip(actual, expected, strict=True):
            assert_close(one, other, **EXACT)


def test_a_block_is_computed_again_under_the_autocast_of_the_first_time() -> None:
    ids = some_ids()

    def narrow(model: TransformerLM) -> list[Tensor]:
        model = model.float()
        with torch.autocast("cpu", dtype=torch.bfloat16), fast_matmul():
            loss = model.loss(ids, ids)
        return list(torch.autograd.grad(loss, list(model.parameters())))

    for one, other in zip(narrow(lm(checkpointing="block")), narrow(lm()), strict=True):
        assert torch.equal(one, other)


# --- sized


def test_a_depth_of_twelve_is_as_wide_as_gpt2_small() -> None:
    sized = TransformerConfig.sized(depth=12, vocab_size=50257)
    assert (sized.num_layers, sized.d_model, sized.num_heads, sized.d_head) == (12, 768, 12, 64)
    assert (sized.d_ff, sized.context_length, sized.vocab_size) == (2048, 1024, 50257)


@pytest.mark.parametrize("depth", [1, 2, 3, 7, 24])
def test_every_depth_fits_together(depth: int) -> None:
    sized = TransformerConfig.sized(depth=depth, vocab_size=100, context_length=16)
    assert sized.d_model == 64 * depth
    assert sized.num_heads == depth
    assert sized.d_ff == default_d_ff(64 * depth)


def test_what_follows_from_the_depth_can_be_changed() -> None:
    sized = TransformerConfig.sized(
        depth=4, vocab_size=9, feed_forward="relu2", num_kv_heads=2, d_model=128, num_layers=3
    )
    assert (sized.num_layers, sized.d_model, sized.num_heads, sized.d_ff) == (3, 128, 2, 512)
    assert (sized.feed_forward, sized.kv_heads) == ("relu2", 2)
    assert TransformerConfig.sized(depth=1, vocab_size=9, d_model=32).num_heads == 1
    assert TransformerConfig.sized(depth=1, vocab_size=9, d_ff=10).d_ff == 10


def test_the_narrowest_sized_model_runs() -> None:
    sized = TransformerConfig.sized(depth=1, vocab_size=9, context_length=4)
    assert math.isfinite(TransformerLM(sized).loss(*torch.randint(9, (2, 1, 4))).item())


# --- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads must divide num_heads, got num_kv_heads=3, num_h"),
        ({"num_kv_heads": 8}, "num_kv_heads must divide num_heads, got num_kv_heads=8, num_h"),
        ({"num_kv_heads": 0}, "num_kv_heads must be at least 1, got 0"),
        ({"sliding_window": 0}, "sliding_window must be at least 1, got 0"),
        ({"pad_vocab_to": 0}, "pad_vocab_to must be at least 1, got 0"),
        ({"logit_cap": 0.0}, r"logit_cap must be a positive number, got 0\.0"),
        ({"logit_cap": -1.0}, r"logit_cap must be a positive number, got -1\.0"),
        ({"logit_cap": math.inf}, "logit_cap must be a positive number, got inf"),
        ({"logit_cap": math.nan}, "logit_cap must be a positive number, got nan"),
        ({"rope_factor": 0.0}, r"rope_factor must be a positive number, got 0\.0"),
        ({"rope_factor": 2.0}, r"rope_factor must be 1 with rope_scaling=\"none\""),
        ({"rope_scaling": "ntk"}, r"and not 1 with another, got 1\.0 with 'ntk'"),
        (
            {"rope_scaling": "linear", "rope_factor": 2.0, "position": "none"},
            r"rope_scaling must be \"none\" with position=\"none\", got 'linear'",
        ),
    ],
    ids=str,
)
def test_refuses_what_does_not_fit_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**options)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("qk_norm", "none, rms"),
        ("attention", "auto, reference, block, fused, flex"),
        ("rope_scaling", "none, linear, ntk"),
        ("checkpointing", "none, block"),
    ],
)
@pytest.mark.parametrize("value", ["None", "", None, True, ["none"]], ids=repr)
def test_a_choice_must_be_one_of_those_that_exist(name: str, choices: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name} must be one of {choices}, got "):
        config(**{name: value})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["num_kv_heads", "sliding_window", "pad_vocab_to"])
@pytest.mark.parametrize("value", [2.0, "2", True], ids=repr)
def test_a_number_of_things_must_be_whole(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a whole number, got {value!r}"):
        config(**{name: value})


def test_attention_refuses_heads_that_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match="num_kv_heads must divide num_heads"):
        MultiHeadSelfAttention(16, 4, position=NoPosition(), num_kv_heads=3)
    with pytest.raises(ValueError, match="num_kv_heads must be at least 1, got 0"):
        MultiHeadSelfAttention(16, 4, position=NoPosition(), num_kv_heads=0)


@pytest.mark.parametrize("stretch", [0.0, -1.0, math.inf, math.nan])
def test_refuses_a_stretch_that_is_not_positive(stretch: float) -> None:
    with pytest.raises(ValueError, match=f"stretch must be a positive number, got {stretch}"):
        rotary_tables(8, 4, stretch=stretch)


def test_refuses_a_depth_of_nothing() -> None:
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        TransformerConfig.sized(depth=0, vocab_size=9)
    with pytest.raises(ValueError, match="num_heads must divide d_model"):
        TransformerConfig.sized(depth=1, vocab_size=9, d_model=200)


# --- start


@pytest.mark.parametrize("feed_forward", ["swiglu", "silu", "relu2"])
def test_an_identity_start_makes_every_token_equally_likely_and_then_learns(
    feed_forward: str,
) -> None:
    torch.manual_seed(8)
    model = TransformerLM(config(start="identity", feed_forward=feed_forward))
    ids, targets = some_ids(), some_ids().flip(-1)
    assert not model(ids).any()
    embedded = model.token_embeddings(ids)
    for layer in model.layers:
        assert torch.equal(layer(embedded), embedded)
    for _ in range(3):  # the head first, then what the blocks add, then what is inside of them
        model.zero_grad()
        model.loss(ids, targets).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(parameter.grad)
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_a_tied_head_does_not_start_at_zero() -> None:
    model = TransformerLM(config(start="identity", tie_embeddings=True))
    assert model.head_weight.count_nonzero() > 100
