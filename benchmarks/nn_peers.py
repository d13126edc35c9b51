"""The peers of `bench_nn.py`, with the weights of one of our models: Llama, and a GPT of torch.nn.

Both take ids and targets of `(batch, seq)` and return the mean cross-entropy.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention, silu

from scratch.nn import TransformerConfig, TransformerLM, llama_config, to_llama_state_dict


def llama(model: TransformerLM) -> Any:
    """Return the `LlamaForCausalLM` that computes what `model` does, on torch's fused attention."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig.from_dict(dict(llama_config(model.config)))
    peer = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    load(peer, to_llama_state_dict(model), tied=model.config.tie_embeddings)
    return peer


def builtin_gpt(model: TransformerLM) -> "BuiltinGPT":
    """Return the `BuiltinGPT` that computes what `model` does."""
    state = to_llama_state_dict(model)
    peer = BuiltinGPT(model.config)
    load(peer, {name.removeprefix("model."): value for name, value in state.items()})
    return peer


def load(peer: nn.Module, state: dict[str, Tensor], *, tied: bool = False) -> None:
    """Give `peer` the weights `state`, all of them; a tied head may be missing there."""
    missing, unexpected = peer.load_state_dict(state, strict=False)
    if unexpected or set(missing) - ({"lm_head.weight"} if tied else set()):
        raise ValueError(f"the weights do not fit the peer: {missing=}, {unexpected=}")


class BuiltinGPT(nn.Module):
    """A Llama-like GPT written with what torch.nn offers. Its names are Llama's."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        if config.tie_embeddings:
            raise ValueError("config.tie_embeddings must be False for the GPT of torch.nn")
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.d_model, eps=1e-5)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        exponents = torch.arange(0, config.d_head, 2) / config.d_head
        angles = torch.arange(config.context_length)[:, None] * config.rope_theta**-exponents
        angles = torch.cat((angles, angles), -1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x, seq = self.embed_tokens(ids), ids.shape[-1]
        for layer in self.layers:
            x = layer(x, self.cos[:seq], self.sin[:seq])
        return cross_entropy(self.lm_head(self.norm(x)).flatten(0, 1), targets.flatten())


class Block(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.d_model, eps=1e-5)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.d_model, eps=1e-5)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Attention(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = (config.num_heads, config.d_head)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            self.add_module(name, nn.Linear(config.d_model, config.d_model, bias=False))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, self.heads).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = q * cos + half_turned(q) * sin, k * cos + half_turned(k) * sin
        attended = scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(attended.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.up_proj = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.down_proj = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


def half_turned(x: Tensor) -> Tensor:
    """Return `(-second, first)` of the two halves of the features."""
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)
