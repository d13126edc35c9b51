"""The contract's names, bound to this project's parts. Glue only: every body calls public names."""

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from scratch.bpe import Tokenizer, train_bpe
from scratch.nn import (
    MultiHeadSelfAttention,
    NoPosition,
    PreNormBlock,
    RotaryEmbedding,
    SwiGLU,
    TransformerConfig,
    TransformerLM,
    cross_entropy,
    embedding,
    linear,
    rms_norm,
    scaled_dot_product_attention,
    silu,
    softmax,
    swiglu,
)
from scratch.optim import AdamW, WarmupCosine, clip_grad_norm
from scratch.train import get_batch, load_checkpoint, save_checkpoint

StrPath = str | PathLike[str]


def run_linear(d_in: int, d_out: int, weights: Tensor, in_features: Tensor) -> Tensor:
    return linear(in_features, weights)


def run_embedding(vocab_size: int, d_model: int, weights: Tensor, token_ids: Tensor) -> Tensor:
    return embedding(token_ids, weights)


def run_swiglu(
    d_model: int,
    d_ff: int,
    w1_weight: Tensor,
    w2_weight: Tensor,
    w3_weight: Tensor,
    in_features: Tensor,
) -> Tensor:
    return swiglu(in_features, w1_weight, w2_weight, w3_weight)


def run_scaled_dot_product_attention(
    Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None = None
) -> Tensor:
    return scaled_dot_product_attention(Q, K, V, mask)


def run_multihead_self_attention(
    d_model: int,
    num_heads: int,
    q_proj_weight: Tensor,
    k_proj_weight: Tensor,
    v_proj_weight: Tensor,
    o_proj_weight: Tensor,
    in_features: Tensor,
) -> Tensor:
    attention = MultiHeadSelfAttention(d_model, num_heads, position=NoPosition())
    weights = _attention_weights(q_proj_weight, k_proj_weight, v_proj_weight, o_proj_weight)
    return _load(attention, weights)(in_features)


def run_multihead_self_attention_with_rope(
    d_model: int,
    num_heads: int,
    max_seq_len: int,
    theta: float,
    q_proj_weight: Tensor,
    k_proj_weight: Tensor,
    v_proj_weight: Tensor,
    o_proj_weight: Tensor,
    in_features: Tensor,
    token_positions: Tensor | None = None,
) -> Tensor:
    rope = RotaryEmbedding(d_model // num_heads, max_seq_len, theta=theta)
    attention = MultiHeadSelfAttention(d_model, num_heads, position=rope)
    weights = _attention_weights(q_proj_weight, k_proj_weight, v_proj_weight, o_proj_weight)
    return _load(attention, weights)(in_features, token_positions)


def run_rope(
    d_k: int, theta: float, max_seq_len: int, in_query_or_key: Tensor, token_positions: Tensor
) -> Tensor:
    return RotaryEmbedding(d_k, max_seq_len, theta=theta)(in_query_or_key, token_positions)


def run_transformer_block(
    d_model: int,
    num_heads: int,
    d_ff: int,
    max_seq_len: int,
    theta: float,
    weights: Mapping[str, Tensor],
    in_features: Tensor,
) -> Tensor:
    rope = RotaryEmbedding(d_model // num_heads, max_seq_len, theta=theta)
    attention = MultiHeadSelfAttention(d_model, num_heads, position=rope)
    return _load(PreNormBlock(d_model, attention, SwiGLU(d_model, d_ff)), weights)(in_features)


def run_transformer_lm(
    vocab_size: int,
    context_length: int,
    d_model: int,
    num_layers: int,
    num_heads: int,
    d_ff: int,
    rope_theta: float,
    weights: Mapping[str, Tensor],
    in_indices: Tensor,
) -> Tensor:
    config = TransformerConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        d_model=d_model,
        num_layers=num_layers,
        num_heads=num_heads,
        d_ff=d_ff,
        rope_theta=rope_theta,
    )
    return _load(TransformerLM(config), weights)(in_indices)


def run_rmsnorm(d_model: int, eps: float, weights: Tensor, in_features: Tensor) -> Tensor:
    return rms_norm(in_features, weights, eps=eps)


def run_silu(in_features: Tensor) -> Tensor:
    return silu(in_features)


def run_get_batch(
    dataset: np.ndarray, batch_size: int, context_length: int, device: str
) -> tuple[Tensor, Tensor]:
    return get_batch(dataset, batch_size, context_length, device)


def run_softmax(in_features: Tensor, dim: int) -> Tensor:
    return softmax(in_features, dim)


def run_cross_entropy(inputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(inputs, targets)


def run_gradient_clipping(parameters: Iterable[nn.Parameter], max_l2_norm: float) -> Tensor:
    return clip_grad_norm(parameters, max_l2_norm)


def get_adamw_cls() -> type[torch.optim.Optimizer]:
    return AdamW


def run_get_lr_cosine_schedule(
    it: int,
    max_learning_rate: float,
    min_learning_rate: float,
    warmup_iters: int,
    cosine_cycle_iters: int,
) -> float:
    return WarmupCosine(
        peak=max_learning_rate,
        floor=min_learning_rate,
        warmup_steps=warmup_iters,
        total_steps=cosine_cycle_iters,
    )(it)


def run_save_checkpoint(
    model: nn.Module, optimizer: torch.optim.Optimizer, iteration: int, out: StrPath | BinaryIO
) -> None:
    save_checkpoint(model, optimizer, iteration, out)


def run_load_checkpoint(
    src: StrPath | BinaryIO, model: nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    return load_checkpoint(src, model, optimizer)


def get_tokenizer(
    vocab: dict[int, bytes],
    merges: list[tuple[bytes, bytes]],
    special_tokens: list[str] | None = None,
) -> Tokenizer:
    return Tokenizer(vocab, merges, special_tokens)


def run_train_bpe(
    input_path: StrPath, vocab_size: int, special_tokens: list[str], **kwargs: Any
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    vocabulary = train_bpe(
        input_path, vocab_size=vocab_size, special_tokens=special_tokens, **kwargs
    )
    return dict(vocabulary.tokens), list(vocabulary.merges)


def _attention_weights(q: Tensor, k: Tensor, v: Tensor, o: Tensor) -> dict[str, Tensor]:
    names = ("q_proj", "k_proj", "v_proj", "output_proj")
    return {f"{name}.weight": weight for name, weight in zip(names, (q, k, v, o), strict=True)}


def _load(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    module.load_state_dict(dict(weights), assign=True)  # keeps the dtype of the given weights
    return module
