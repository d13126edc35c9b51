"""The bridge to Llama and Qwen3, held against the classes of transformers themselves."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from scratch.nn import (
    TransformerConfig,
    TransformerLM,
    config_from_llama,
    from_llama_state_dict,
    llama_config,
    to_llama_state_dict,
)

LOGITS = {"rtol": 0.0, "atol": 1e-4}  # float32; their angles are made in float32, ours in float64


def config(**changes: Any) -> TransformerConfig:
    sizes = {"vocab_size": 19, "context_length": 24, "d_model": 32, "num_layers": 2}
    return TransformerConfig(**{**sizes, "num_heads": 4, "d_ff": 40, **changes})


VARIANTS = {
    "llama": config(),
    "grouped": config(num_kv_heads=2),
    "tied": config(tie_embeddings=True),
    "one-pair-heads": config(num_heads=16, num_kv_heads=4),
    "theta": config(rope_theta=500_000.0),
    "linear": config(rope_scaling="linear", rope_factor=4.0),
    "ntk": config(rope_scaling="ntk", rope_factor=4.0),
    "qwen3": config(qk_norm="rms"),
    "qwen3-grouped-tied": config(qk_norm="rms", num_kv_heads=1, tie_embeddings=True),
    "qwen3-window": config(qk_norm="rms", sliding_window=5),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def randomized(model: Any) -> Any:
    """Give every weight values of a size that matters, those that start at one or near zero too."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.5 if parameter.ndim == 1 else 0.3))
    return model


def theirs(entries: dict[str, Any]) -> nn.Module:
    """Build the class of transformers that `config.json` asks for, from its entries alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import transformers

    architecture = getattr(transformers, entries["architectures"][0])
    return randomized(architecture(architecture.config_class.from_dict(entries)).eval())


def check_equal(ours: TransformerLM, other: Any) -> None:
    context = ours.config.context_length
    ids = torch.randint(ours.config.vocab_size, (3, context))
    with torch.no_grad():
        assert_close(other(ids).logits, ours(ids), **LOGITS)


def check_export(variant: TransformerConfig) -> None:
    ours, other = randomized(TransformerLM(variant)), theirs(llama_config(variant))
    problems = other.load_state_dict(to_llama_state_dict(ours), strict=False)
    tied = ["lm_head.weight"] if variant.tie_embeddings else []
    assert (problems.missing_keys, problems.unexpected_keys) == (tied, [])
    check_equal(ours, other)


def check_import(variant: TransformerConfig) -> None:
    ours, other = TransformerLM(variant), theirs(llama_config(variant))
    ours.load_state_dict(from_llama_state_dict(variant, other.state_dict()))
    check_equal(ours, other)


@every_variant
def test_transformers_computes_the_same_logits_from_our_weights(variant: TransformerConfig) -> None:
    check_export(variant)


@every_variant
def test_we_compute_the_same_logits_from_the_weights_of_transformers(
    variant: TransformerConfig,
) -> None:
    check_import(variant)


@st.composite
def configs(draw: st.DrawFn) -> TransformerConfig:
    kv_heads, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    heads = kv_heads * groups
    return TransformerConfig(
        vocab_size=draw(st.integers(2, 30)),
        context_length=draw(st.integers(1, 12)),
        d_model=heads * 2 * draw(st.integers(1, 4)),
        num_layers=draw(st.integers(1, 3)),
        num_heads=heads,
        num_kv_heads=kv_heads,
        d_ff=draw(st.integers(1, 24)),
        rope_theta=draw(st.floats(10.0, 1e6)),
        tie_embeddings=draw(st.booleans()),
        qk_norm=draw(st.sampled_from(["none", "rms"])),
    )


@given(configs())
@settings(max_examples=15, deadline=None)
def test_small_shapes_agree_in_both_directions(variant: TransformerConfig) -> None:
    check_export(variant)
    check_import(variant)


@every_variant
def test_there_and_back_is_exact(variant: TransformerConfig) -> None:
    state = randomized(TransformerLM(variant)).state_dict()
    model = TransformerLM(variant)
    model.load_state_dict(state)
    back = from_llama_state_dict(variant, to_llama_state_dict(model))
    assert list(back) == list(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_rows_of_a_head_change_places_by_pairs() -> None:
    model = TransformerLM(config(d_model=12, num_heads=2))
    weight = torch.arange(12.0)[:, None].expand(12, 12)
    model.load_state_dict({**model.state_dict(), "layers.1.attn.k_proj.weight": weight})
    moved = to_llama_state_dict(model)["model.layers.1.self_attn.k_proj.weight"]
    assert moved[:, 0].tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


def test_export_keeps_dtypes_and_needs_no_gradients() -> None:
    state = to_llama_state_dict(TransformerLM(config(qk_norm="rms")).bfloat16())
    assert {weight.dtype for weight in state.values()} == {torch.bfloat16}
    assert not any(weight.requires_grad for weight in state.values())
    assert all(weight.is_contiguous() for weight in state.values())


# --- files


@pytest.mark.parametrize("name", ["grouped", "qwen3-grouped-tied"])
def test_a_folder_of_transformers_is_read(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    other: Any = theirs(llama_config(VARIANTS[name]))
    other.save_pretrained(tmp_path)
    read = config_from_llama(json.loads((tmp_path / "config.json").read_text()))
    assert read == VARIANTS[name]
    ours = TransformerLM(read)
    ours.load_state_dict(from_llama_state_dict(read, load_file(tmp_path / "model.safetensors")))
    check_equal(ours, other)


@pytest.mark.parametrize("name", ["grouped", "qwen3-grouped-tied"])
def test_transformers_reads_a_folder_of_ours(name: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    ours = randomized(TransformerLM(VARIANTS[name]))
    save_file(to_llama_state_dict(ours), tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(llama_config(ours.config)))
    other, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    check_equal(ours, other)


# --- config.json


@every_variant
def test_config_json_says_what_the_config_says(variant: TransformerConfig) -> None:
    read = config_from_llama(json.loads(json.dumps(llama_config(variant))))
    if variant.rope_scaling == "ntk":  # known by its base alone
        assert read.rope_theta == pytest.approx(variant.rope_theta * 4 ** (8 / 6))
    else:
        assert read == variant


@every_variant
def test_config_json_survives_transformers(variant: TransformerConfig) -> None:
    entries = llama_config(variant)
    other: Any = theirs(entries)
    assert config_from_llama(other.config.to_dict()) == config_from_llama(entries)


def test_config_json_is_read_as_before_transformers_5() -> None:
    entries = llama_config(config(rope_theta=777.0, rope_scaling="linear", rope_factor=2.0))
    del entries["rope_parameters"]
    assert config_from_llama(entries).rope_theta == 777
    assert config_from_llama(entries).rope_factor == 2


def test_dtype_and_the_end_of_text_are_written_down() -> None:
    entries = llama_config(config(), dtype=torch.bfloat16, end_of_text_id=7)
    assert entries["dtype"] == entries["torch_dtype"] == "bfloat16"
    assert entries["eos_token_id"] == 7
    # transformers would otherwise stop at id 2, whatever that is here
    assert llama_config(config())["eos_token_id"] is None
    assert theirs(llama_config(config())).config.eos_token_id is None


# --- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "post"}, "norm must be 'pre' for Llama and Qwen3, got 'post'"),
        ({"norm": "none"}, "norm must be 'pre' for Llama and Qwen3, got 'none'"),
        ({"feed_forward": "silu"}, "feed_forward must be 'swiglu' for .*, got 'silu'"),
        ({"feed_forward": "relu2"}, "feed_forward must be 'swiglu' for .*, got 'relu2'"),
        ({"position": "none"}, "position must be 'rope' for Llama and Qwen3, got 'none'"),
        ({"logit_cap": 15.0}, "logit_cap must be None for Llama and Qwen3, got 15.0"),
        ({"sliding_window": 4}, "sliding_window must be None for Llama, .*, got 4"),
    ],
)
def test_what_llama_cannot_say_is_refused(changes: dict[str, Any], message: str) -> None:
    variant = config(**changes)
    with pytest.raises(ValueError, match=message):
        llama_config(variant)
    with pytest.raises(ValueError, match=message):
        to_llama_state_dict(TransformerLM(variant))
    with pytest.raises(ValueError, match=message):
        from_llama_state_dict(variant, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma"}, "model_type must be one of llama, qwen3, got 'gemma'"),
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu' for a TransformerLM, got 'gelu'"),
        ({"attention_bias": True}, "attention_bias must be False .*, got True"),
        ({"mlp_bias": True}, "mlp_bias must be False .*, got True"),
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps must be 1e-05 .*, got 1e-06"),
        ({"head_dim": 16}, "head_dim must be 8 .*, got 16"),
        ({"hidden_size": None}, "hidden_size must stand in a config.json"),
        ({"hidden_size": "32"}, "hidden_size must be a whole number of at least 1, got '32'"),
        ({"num_attention_heads": 0}, "num_attention_heads must be a whole number .*, got 0"),
        ({"rope_scaling": 5}, "rope_scaling and rope_parameters must be objects, got 5"),
        ({"model_type": "qwen3", "head_dim": None}, "head_dim must stand in a config.json"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type must be .*, got 'yarn'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor .* 0.5"),
        (
            {"model_type": "qwen3", "use_sliding_window": True, "max_window_layers": 1},
            "layer_types must be the same for all layers",
        ),
    ],
)
def test_what_no_transformer_lm_can_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_from_llama({**llama_config(config()), **changes})


@pytest.mark.parametrize(
    ("dropped", "added", "message"),
    [
        ("model.norm.weight", None, "missing model.norm.weight; unknown none"),
        (None, "model.layers.2.input_layernorm.weight", "missing none; unknown model.layers.2.inp"),
        ("lm_head.weight", "head.weight", "missing lm_head.weight; unknown head.weight"),
    ],
)
def test_names_that_do_not_fit_are_named(
    dropped: str | None, added: str | None, message: str
) -> None:
    state = to_llama_state_dict(TransformerLM(config()))
    state = {name: weight for name, weight in state.items() if name != dropped}
    if added is not None:
        state[added] = torch.zeros(32)
    with pytest.raises(ValueError, match=re.escape(message)):
        from_llama_state_dict(config(), state)


def test_sizes_that_a_file_only_claims_are_refused_before_they_take_memory() -> None:
    state = to_llama_state_dict(TransformerLM(config()))
    with pytest.raises(ValueError, match=r"must hold the tensors of 10000000000 layers, got 21"):
        from_llama_state_dict(config(num_layers=10**10), state)
    with pytest.raises(ValueError, match=r"embed_tokens.weight must have shape \(1000000000000, "):
        from_llama_state_dict(config(vocab_size=10**12), state)
    assert from_llama_state_dict(config(context_length=10**14), state)


def test_shapes_that_do_not_fit_are_named() -> None:
    state = to_llama_state_dict(TransformerLM(config()))
    message = r"model\.layers\.0\.self_attn\.k_proj\.weight must have shape \(16, 32\), got \(32,"
    with pytest.raises(ValueError, match=message):
        from_llama_state_dict(config(num_kv_heads=2), state)


def test_a_tied_model_may_bring_its_own_head_only() -> None:
    variant = config(tie_embeddings=True)
    state: dict[str, Tensor] = to_llama_state_dict(TransformerLM(variant))
    assert "lm_head.weight" not in state
    embedding = state["model.embed_tokens.weight"]
    from_llama_state_dict(variant, {**state, "lm_head.weight": embedding.clone()})
    with pytest.raises(ValueError, match=r"lm_head\.weight must equal model\.embed_tokens"):
        from_llama_state_dict(variant, {**state, "lm_head.weight": embedding + 1})
