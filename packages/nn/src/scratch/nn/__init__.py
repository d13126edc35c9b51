"""The parts of a Transformer language model, each as a function and as a module."""

from ._activations import silu
from ._attention import MultiHeadSelfAttention, causal_mask, scaled_dot_product_attention
from ._config import TransformerConfig, default_d_ff
from ._embedding import Embedding, embedding
from ._feedforward import SiLUFeedForward, SwiGLU, silu_feed_forward, swiglu
from ._generate import generate, sampling_distribution
from ._linear import Linear, linear
from ._losses import cross_entropy
from ._norm import RMSNorm, rms_norm
from ._rotary import NoPosition, RotaryEmbedding, rotary_tables, rotate_pairs
from ._softmax import log_sum_exp, softmax
from ._transformer import NoNormBlock, PostNormBlock, PreNormBlock, TransformerLM

__version__ = "0.1.0"

__all__ = [
    "Embedding",
    "Linear",
    "MultiHeadSelfAttention",
    "NoNormBlock",
    "NoPosition",
    "PostNormBlock",
    "PreNormBlock",
    "RMSNorm",
    "RotaryEmbedding",
    "SiLUFeedForward",
    "SwiGLU",
    "TransformerConfig",
    "TransformerLM",
    "causal_mask",
    "cross_entropy",
    "default_d_ff",
    "embedding",
    "generate",
    "linear",
    "log_sum_exp",
    "rms_norm",
    "rotary_tables",
    "rotate_pairs",
    "sampling_distribution",
    "scaled_dot_product_attention",
    "silu",
    "silu_feed_forward",
    "softmax",
    "swiglu",
]
