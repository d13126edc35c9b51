"""The parts of a Transformer language model, each as a function and as a module."""

from ._activations import relu_squared, silu
from ._attention import scaled_dot_product_attention
from ._backends import ATTENTION_BACKENDS, AttentionBackend
from ._blocks import NoNormBlock, PostNormBlock, PreNormBlock
from ._config import TransformerConfig, default_d_ff
from ._embedding import Embedding, embedding
from ._feedforward import (
    ReLUSquaredFeedForward,
    SiLUFeedForward,
    SwiGLU,
    relu_squared_feed_forward,
    silu_feed_forward,
    swiglu,
)
from ._forms import plain_forms
from ._generate import generate, sampling_distribution
from ._linear import Linear, linear
from ._linear_loss import linear_cross_entropy
from ._losses import cross_entropy, soft_cap
from ._matmul import fast_matmul, fast_matmul_is_exact
from ._norm import NoNorm, RMSNorm, rms_norm
from ._rotary import NoPosition, RotaryEmbedding, ntk_theta, rotary_tables, rotate_pairs
from ._self_attention import MultiHeadSelfAttention
from ._softmax import log_sum_exp, softmax
from ._transformer import TransformerLM
from ._visibility import Visibility, causal_mask

__version__ = "0.2.0"

__all__ = [
    "ATTENTION_BACKENDS",
    "AttentionBackend",
    "Embedding",
    "Linear",
    "MultiHeadSelfAttention",
    "NoNorm",
    "NoNormBlock",
    "NoPosition",
    "PostNormBlock",
    "PreNormBlock",
    "RMSNorm",
    "ReLUSquaredFeedForward",
    "RotaryEmbedding",
    "SiLUFeedForward",
    "SwiGLU",
    "TransformerConfig",
    "TransformerLM",
    "Visibility",
    "causal_mask",
    "cross_entropy",
    "default_d_ff",
    "embedding",
    "fast_matmul",
    "fast_matmul_is_exact",
    "generate",
    "linear",
    "linear_cross_entropy",
    "log_sum_exp",
    "ntk_theta",
    "plain_forms",
    "relu_squared",
    "relu_squared_feed_forward",
    "rms_norm",
    "rotary_tables",
    "rotate_pairs",
    "sampling_distribution",
    "scaled_dot_product_attention",
    "silu",
    "silu_feed_forward",
    "soft_cap",
    "softmax",
    "swiglu",
]
