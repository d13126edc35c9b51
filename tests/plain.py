"""Oracle: the Transformer in plain float64, from torch's own functions, one head at a time."""

import torch
from torch import Tensor
from torch.nn import functional

Weights = dict[str, Tensor]


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Rotate adjacent pairs: as complex numbers they are multiplied by `exp(i * angle)`."""
    half = x.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = positions.double().unsqueeze(-1) * frequencies
    pairs = torch.view_as_complex(x.double().unflatten(-1, (half, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend row by row, key by key; a query without keys gives zeros."""
    if q.ndim > 2:
        masks = [None] * len(q) if mask is None else mask.expand(*q.shape[:-1], k.shape[-2])
        return torch.stack([attend(*row) for row in zip(q, k, v, masks, strict=True)])
    outputs = []
    for index, query in enumerate(q):
        seen = torch.ones(len(k), dtype=torch.bool) if mask is None else mask[index]
        weights = functional.softmax(k[seen] @ query / q.shape[-1] ** 0.5, dim=0)
        outputs.append((weights.unsqueeze(-1) * v[seen]).sum(0))
    return torch.stack(outputs)


def self_attention(
    x: Tensor, weights: Weights, heads: int, positions: Tensor | None = None, theta: float = 0.0
) -> Tensor:
    """Causal multi-head self-attention; with `positions`, queries and keys are rotated."""
    head_outputs = []
    for head in range(heads):
        q, k, v = (
            functional.linear(x, weights[f"{name}_proj.weight"].chunk(heads)[head])
            for name in "qkv"
        )
        if positions is not None:
            q, k = rotate(q, positions, theta), rotate(k, positions, theta)
        head_outputs.append(functional.scaled_dot_product_attention(q, k, v, is_causal=True))
    return functional.linear(torch.cat(head_outputs, dim=-1), weights["output_proj.weight"])


def swiglu(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor) -> Tensor:
    return functional.linear(
        functional.silu(functional.linear(x, w1)) * functional.linear(x, w3), w2
    )


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    return functional.rms_norm(x, weight.shape, weight, eps)


def below(weights: Weights, prefix: str) -> Weights:
    return {
        name.removeprefix(prefix): weight
        for name, weight in weights.items()
        if name.startswith(prefix)
    }


def block(x: Tensor, weights: Weights, heads: int, theta: float) -> Tensor:
    positions = torch.arange(x.shape[-2])
    normed = rms_norm(x, weights["ln1.weight"])
    x = x + self_attention(normed, below(weights, "attn."), heads, positions, theta)
    ffn = [weights[f"ffn.{name}.weight"] for name in ("w1", "w2", "w3")]
    return x + swiglu(rms_norm(x, weights["ln2.weight"]), *ffn)


def language_model(ids: Tensor, weights: Weights, layers: int, heads: int, theta: float) -> Tensor:
    x = functional.embedding(ids, weights["token_embeddings.weight"])
    for layer in range(layers):
        x = block(x, below(weights, f"layers.{layer}."), heads, theta)
    return functional.linear(rms_norm(x, weights["ln_final.weight"]), weights["lm_head.weight"])


# --- weights


def attention_weights(d_model: int) -> Weights:
    names = ("q", "k", "v", "output")
    return {f"{name}_proj.weight": normal(d_model, d_model) / d_model**0.5 for name in names}


def block_weights(d_model: int, d_ff: int) -> Weights:
    weights = {f"attn.{name}": weight for name, weight in attention_weights(d_model).items()}
    weights |= {f"{name}.weight": 1 + normal(d_model) / 4 for name in ("ln1", "ln2")}
    weights |= {f"ffn.{name}.weight": normal(d_ff, d_model) / d_model**0.5 for name in ("w1", "w3")}
    return weights | {"ffn.w2.weight": normal(d_model, d_ff) / d_ff**0.5}


def language_model_weights(vocab_size: int, layers: int, d_model: int, d_ff: int) -> Weights:
    weights = {"token_embeddings.weight": normal(vocab_size, d_model)}
    for layer in range(layers):
        of_block = block_weights(d_model, d_ff)
        weights |= {f"layers.{layer}.{name}": weight for name, weight in of_block.items()}
    weights["ln_final.weight"] = 1 + normal(d_model) / 4
    return weights | {"lm_head.weight": normal(vocab_size, d_model) / d_model**0.5}
