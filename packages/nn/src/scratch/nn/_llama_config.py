"""What `config.json` says of a Llama or Qwen3, and what it means here."""

from collections.abc import Mapping
from typing import Any, cast

import torch

from ._config import TransformerConfig
from ._norm import RMSNorm
from ._rotary import ntk_theta

_EPS = RMSNorm(1).eps
_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# The one value that a TransformerLM has, and the value of a config.json that leaves the entry out.
_FIXED = {
    "hidden_act": ("silu", "silu"),
    "attention_bias": (False, False),
    "mlp_bias": (False, False),
    "rms_norm_eps": (_EPS, 1e-6),
}


def check_expressible(config: TransformerConfig) -> None:
    """Refuse what neither Llama nor Qwen3 has a name for.

    Raises:
        ValueError: naming the option, what it must be, and its value.
    """
    required = {"norm": "pre", "feed_forward": "swiglu", "position": "rope", "logit_cap": None}
    for name, value in required.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"{name} must be {value!r} for Llama and Qwen3, got {getattr(config, name)!r}"
            )
    if config.sliding_window is not None and config.qk_norm == "none":
        raise ValueError(
            "sliding_window must be None for Llama, only Qwen3, which is qk_norm='rms', "
            f"has one, got {config.sliding_window}"
        )


def llama_config(
    config: TransformerConfig,
    *,
    dtype: torch.dtype = torch.float32,
    end_of_text_id: int | None = None,
) -> dict[str, Any]:
    """Return the content of the `config.json` that belongs to `to_llama_state_dict`.

    It describes a Qwen3 if `qk_norm` is "rms", else a Llama. What transformers 5 spells in another
    way than transformers 4.43 and later stands there in both. The "ntk" scaling of the angles is
    written as the larger base that it is.

    Args:
        config: the model. How it is computed, its `attention` and `checkpointing`, is left out.
        dtype: of the weights in the file.
        end_of_text_id: the id at which generation is to stop.

    Raises:
        ValueError: if neither can express the model, naming the option.
    """
    check_expressible(config)
    model_type = "llama" if config.qk_norm == "none" else "qwen3"
    theta, scaling = config.rope_theta, None
    if config.rope_scaling == "ntk":
        theta = ntk_theta(theta, config.rope_factor, config.d_head)
    elif config.rope_scaling == "linear":
        scaling = {"rope_type": "linear", "factor": float(config.rope_factor)}
    name = str(dtype).removeprefix("torch.")
    settings: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[model_type]],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.d_head,
        "hidden_act": "silu",
        "attention_bias": False,
        "rms_norm_eps": _EPS,
        "tie_word_embeddings": config.tie_embeddings,
        "rope_parameters": {"rope_type": "default", **(scaling or {}), "rope_theta": float(theta)},
        "rope_theta": float(theta),
        "rope_scaling": scaling,
        "dtype": name,
        "torch_dtype": name,
        "bos_token_id": None,
        "eos_token_id": end_of_text_id,
    }
    if model_type == "llama":
        return {**settings, "mlp_bias": False}
    # Layers from number `max_window_layers` on have the window.
    window = config.sliding_window
    layers = config.num_layers if window is None else 0
    use = {"use_sliding_window": window is not None, "max_window_layers": layers}
    return {**settings, **use, "sliding_window": window}


def config_from_llama(settings: Mapping[str, Any]) -> TransformerConfig:
    """Return the config that a `config.json` of a Llama or Qwen3 describes.

    Raises:
        ValueError: if it describes what a `TransformerLM` is not, naming the entry, or lacks one.
    """
    model_type = settings.get("model_type")
    if model_type not in _ARCHITECTURES:
        raise ValueError(f"model_type must be one of llama, qwen3, got {model_type!r}")
    for name, (value, left_out) in _FIXED.items():
        _must_be(name, value, settings.get(name, left_out))
    d_model, heads = _size(settings, "hidden_size"), _size(settings, "num_attention_heads")
    d_head, kv_heads = settings.get("head_dim"), settings.get("num_key_value_heads")
    if model_type == "qwen3":  # whose defaults do not follow from the width
        d_head, kv_heads = _entry(settings, "head_dim"), _entry(settings, "num_key_value_heads")
    _must_be("head_dim", d_model // heads, d_head or d_model // heads)
    theta, factor = _angles(settings)
    return TransformerConfig(
        vocab_size=_entry(settings, "vocab_size"),
        context_length=_entry(settings, "max_position_embeddings"),
        d_model=d_model,
        num_layers=_entry(settings, "num_hidden_layers"),
        num_heads=heads,
        d_ff=_entry(settings, "intermediate_size"),
        rope_theta=theta,
        tie_embeddings=settings.get("tie_word_embeddings", False),
        num_kv_heads=None if kv_heads in (None, heads) else kv_heads,
        qk_norm="rms" if model_type == "qwen3" else "none",
        sliding_window=_window(settings),
        rope_scaling="none" if factor == 1 else "linear",
        rope_factor=factor,
    )


def _entry(settings: Mapping[str, Any], name: str) -> Any:
    if settings.get(name) is None:
        raise ValueError(f"{name} must stand in a config.json, got entries {sorted(settings)}")
    return settings[name]


def _size(settings: Mapping[str, Any], name: str) -> int:
    """Return an entry with which other sizes are computed."""
    value = _entry(settings, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def _must_be(name: str, expected: object, value: object) -> None:
    if value != expected:
        raise ValueError(f"{name} must be {expected!r} for a TransformerLM, got {value!r}")


def _angles(settings: Mapping[str, Any]) -> tuple[float, float]:
    """Return the base of the angles and the factor by which positions are divided."""
    # Before transformers 5, the base stood alone and the rest under `rope_scaling`.
    given: object = settings.get("rope_scaling") or settings.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        raise ValueError(f"rope_scaling and rope_parameters must be objects, got {given!r}")
    rope = dict(cast("Mapping[str, Any]", given))
    theta = rope.pop("rope_theta", settings.get("rope_theta", 10_000.0))
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    if kind not in ("default", "linear"):
        raise ValueError(f"rope_type must be one of default, linear, got {kind!r}")
    _must_be("partial_rotary_factor", 1.0, rope.get("partial_rotary_factor", 1.0))
    return float(theta), float(rope["factor"]) if kind == "linear" else 1.0


def _window(settings: Mapping[str, Any]) -> int | None:
    """Return the window of all layers; only Qwen3 has one."""
    if settings.get("model_type") != "qwen3" or not settings.get("use_sliding_window", False):
        return None
    layers = _entry(settings, "num_hidden_layers")
    kinds = settings.get("layer_types")
    if kinds is None:
        full = min(settings.get("max_window_layers", 28), layers)
        kinds = ["full_attention"] * full + ["sliding_attention"] * (layers - full)
    if len(set(kinds)) > 1:
        raise ValueError(f"layer_types must be the same for all layers, got {kinds}")
    return None if kinds[0] == "full_attention" else _entry(settings, "sliding_window")
