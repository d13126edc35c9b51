"""A configuration is a value: what it refuses, and what it derives."""

import dataclasses
from typing import Any, Literal

import pytest

from scratch.nn import TransformerConfig, default_d_ff

SIZES = {
    "vocab_size": 100,
    "context_length": 16,
    "d_model": 32,
    "num_layers": 2,
    "num_heads": 4,
    "d_ff": 64,
}


def config(**changes: Any) -> TransformerConfig:
    return TransformerConfig(**{**SIZES, **changes})


def test_the_default_is_pre_norm_swiglu_rope_untied() -> None:
    assert dataclasses.asdict(config()) == {
        **SIZES,
        "rope_theta": 10_000.0,
        "norm": "pre",
        "feed_forward": "swiglu",
        "position": "rope",
        "tie_embeddings": False,
        "start": "glorot",
        "num_kv_heads": None,
        "qk_norm": "none",
        "attention": "auto",
        "sliding_window": None,
        "logit_cap": None,
        "rope_scaling": "none",
        "rope_factor": 1.0,
        "pad_vocab_to": 64,
        "checkpointing": "none",
    }


def test_equal_values_are_equal_configurations() -> None:
    assert config() == config()
    assert hash(config()) == hash(config())
    assert config() != config(norm="post")


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().d_model = 64  # pyright: ignore[reportAttributeAccessIssue]


def test_arguments_have_names() -> None:
    with pytest.raises(TypeError, match="positional"):
        TransformerConfig(100, 16, 32, 2, 4, 64)  # pyright: ignore[reportCallIssue]


def test_a_misspelt_name_is_refused() -> None:
    with pytest.raises(TypeError, match="num_head"):
        config(num_head=4)


def test_heads_share_the_width() -> None:
    assert config().d_head == 8
    assert config(num_heads=16).d_head == 2


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("size", [0, -1])
def test_every_size_must_be_at_least_one(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {size}"):
        config(**{name: size})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("size", [32.0, "32", True, None], ids=repr)
def test_every_size_must_be_a_whole_number(name: str, size: object) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a whole number, got {size!r}"):
        config(**{name: size})


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(
        ValueError, match="num_heads must divide d_model, got num_heads=3, d_model=32"
    ):
        config(num_heads=3)


def test_rope_needs_an_even_head_and_no_position_does_not() -> None:
    with pytest.raises(ValueError, match="must be even for rope, got 36 / 4 = 9"):
        config(d_model=36)
    assert config(d_model=36, position="none").d_head == 9


@pytest.mark.parametrize("theta", [0.0, -1.0, float("inf"), float("nan")])
def test_theta_must_be_positive_and_finite(theta: float) -> None:
    with pytest.raises(ValueError, match=f"rope_theta must be a positive number, got {theta}"):
        config(rope_theta=theta)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("norm", "pre, post, none"),
        ("feed_forward", "swiglu, silu, relu2"),
        ("position", "rope, none"),
    ],
)
@pytest.mark.parametrize("value", ["Pre", "", None, ["pre"]], ids=repr)
def test_a_variant_must_be_one_of_those_that_exist(name: str, choices: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name} must be one of {choices}, got "):
        config(**{name: value})


@pytest.mark.parametrize(
    ("d_model", "d_ff"), [(512, 1344), (768, 2048), (1024, 2752), (64, 192), (32, 64), (1, 64)]
)
def test_swiglu_gets_eight_thirds_to_the_nearest_multiple_of_64(d_model: int, d_ff: int) -> None:
    assert default_d_ff(d_model) == d_ff


@pytest.mark.parametrize("d_model", [1, 32, 500])
def test_the_silu_network_gets_four_times_the_width(d_model: int) -> None:
    assert default_d_ff(d_model, "silu") == 4 * d_model


@pytest.mark.parametrize("feed_forward", ["swiglu", "silu"])
def test_no_width_has_no_default(feed_forward: Literal["swiglu", "silu"]) -> None:
    with pytest.raises(ValueError, match="d_model must be at least 1, got 0"):
        default_d_ff(0, feed_forward)


def test_both_defaults_cost_about_eight_squares_of_the_width() -> None:
    for d_model in (512, 768, 1024, 2048):
        assert 3 * default_d_ff(d_model) * d_model == pytest.approx(8 * d_model**2, rel=0.02)
        assert 2 * default_d_ff(d_model, "silu") * d_model == 8 * d_model**2


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_feed_forward_has_no_default_width() -> None:
    with pytest.raises(
        ValueError, match="feed_forward must be one of swiglu, silu, relu2, got 'gelu'"
    ):
        default_d_ff(512, "gelu")  # type: ignore[arg-type]


@pytest.mark.usefixtures("unchecked")
def test_a_word_for_false_is_no_false() -> None:
    with pytest.raises(TypeError, match="tie_embeddings must be True or False, got 'false'"):
        TransformerConfig(
            vocab_size=8,
            context_length=8,
            d_model=8,
            num_layers=1,
            num_heads=1,
            d_ff=8,
            tie_embeddings="false",  # type: ignore[arg-type]
        )
