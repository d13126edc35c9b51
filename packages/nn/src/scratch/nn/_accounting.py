"""How many weights a model has, and what they are for."""

from dataclasses import astuple, dataclass

from ._config import TransformerConfig
from ._transformer import TransformerLM

_COMPONENTS = {
    "token_embeddings": "embedding",
    "q_norm": "norms",
    "k_norm": "norms",
    "attn": "attention",
    "ffn": "feed_forward",
    "ln1": "norms",
    "ln2": "norms",
    "ln_final": "norms",
    "lm_head": "head",
}


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """Learned numbers of a model, by what they are for.

    A weight that embedding and head share is counted once, with the embedding.
    """

    embedding: int
    attention: int
    feed_forward: int
    norms: int
    head: int

    @property
    def total(self) -> int:
        """All learned numbers."""
        return sum(astuple(self))


def count_parameters(of: TransformerConfig | TransformerLM) -> ParameterCount:
    """Count the learned numbers of a model, or of the model that a config describes.

    A config is counted by formula, so a model too large for this machine can be asked about too.
    """
    return _count_model(of) if isinstance(of, TransformerLM) else _count_config(of)


def _count_model(model: TransformerLM) -> ParameterCount:
    counts = dict.fromkeys(_COMPONENTS.values(), 0)
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        component = next(component for key, component in _COMPONENTS.items() if key in parts)
        counts[component] += parameter.numel()
    return ParameterCount(**counts)


def _count_config(config: TransformerConfig) -> ParameterCount:
    d_model, layers, vocab = config.d_model, config.num_layers, config.vocab_size
    norms = 0 if config.norm == "none" else (2 * layers + 1) * d_model
    head_norms = 0 if config.qk_norm == "none" else 2 * layers * config.d_head
    return ParameterCount(
        embedding=vocab * d_model,
        attention=layers * attention_weights(config),
        feed_forward=layers * feed_forward_weights(config),
        norms=norms + head_norms,
        head=0 if config.tie_embeddings else vocab * d_model,
    )


def attention_weights(config: TransformerConfig) -> int:
    """Count the weights of the four projections of a block."""
    return 2 * config.d_model * (config.d_model + config.kv_heads * config.d_head)


def feed_forward_weights(config: TransformerConfig) -> int:
    """Count the weights of the feed-forward network of a block."""
    return linear_maps(config) * config.d_model * config.d_ff


def linear_maps(config: TransformerConfig) -> int:
    """Count the linear maps of a feed-forward network: a gate makes it three."""
    return 3 if config.feed_forward == "swiglu" else 2
