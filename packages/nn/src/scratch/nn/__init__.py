"""The parts of a Transformer language model, each as a function and as a module."""

from ._accounting import ParameterCount, count_parameters
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
from ._flops import FlopsPerToken, flops_per_token, mfu, peak_flops_per_second
from ._forms import plain_forms
from ._generate import generate, generate_batch
from ._kept import ActivationMemory
from ._linear import Linear, linear
from ._linear_loss import linear_cross_entropy
from ._llama import from_llama_state_dict, to_llama_state_dict
from ._llama_config import config_from_llama, llama_config
from ._losses import cross_entropy, soft_cap
from ._matmul import fast_matmul, fast_matmul_is_exact
from ._memory import MemoryEstimate, memory_estimate
from ._norm import NoNorm, RMSNorm, rms_norm
from ._rotary import NoPosition, RotaryEmbedding, ntk_theta, rotary_tables, rotate_pairs
from ._sampling import sampling_distribution
from ._self_attention import MultiHeadSelfAttention
from ._softmax import log_sum_exp, softmax
from ._transformer import TransformerLM
from ._visibility import Visibility, causal_mask

__version__ = "0.4.0"

__all__ = [
    "ATTENTION_BACKENDS",
    "ActivationMemory",
    "AttentionBackend",
    "Embedding",
    "FlopsPerToken",
    "Linear",
    "MemoryEstimate",
    "MultiHeadSelfAttention",
    "NoNorm",
    "NoNormBlock",
    "NoPosition",
    "ParameterCount",
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
    "config_from_llama",
    "count_parameters",
    "cross_entropy",
    "default_d_ff",
    "embedding",
    "fast_matmul",
    "fast_matmul_is_exact",
    "flops_per_token",
    "from_llama_state_dict",
    "generate",
    "generate_batch",
    "linear",
    "linear_cross_entropy",
    "llama_config",
    "log_sum_exp",
    "memory_estimate",
    "mfu",
    "ntk_theta",
    "peak_flops_per_second",
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
    "to_llama_state_dict",
]
