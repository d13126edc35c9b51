"""The bridge to Llama and Qwen3, and so to the programs that read their files.

The base model is a Llama (Touvron et al., 2023, arXiv:2302.13971) under other names; with norms on
queries and keys it is a Qwen3 (Yang et al., 2025, arXiv:2505.09388). One thing differs: here a pair
that is turned stands side by side, features 2k and 2k + 1 of a head, there half a head apart,
features k and k + d/2. Scores only see pairs, so the rows of the query and key projections change
places and nothing else does.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor

from ._config import TransformerConfig
from ._llama_config import check_expressible
from ._transformer import TransformerLM

_NAMES = {
    "token_embeddings": "model.embed_tokens",
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.output_proj": "self_attn.o_proj",
    "attn.q_norm": "self_attn.q_norm",
    "attn.k_norm": "self_attn.k_norm",
    "ln1": "input_layernorm",
    "ln2": "post_attention_layernorm",
    "ffn.w1": "mlp.gate_proj",
    "ffn.w2": "mlp.down_proj",
    "ffn.w3": "mlp.up_proj",
    "ln_final": "model.norm",
    "lm_head": "lm_head",
}
_TURNED = ("q_proj", "k_proj", "q_norm", "k_norm")


def to_llama_state_dict(model: TransformerLM) -> dict[str, Tensor]:
    """Return the weights of `model` under the names and in the order of Llama or Qwen3.

    Those whose rows change places are copies, the others share their memory with the model. A tied
    model has no `lm_head.weight`, as in files written by transformers.

    Raises:
        ValueError: if neither can express the model, naming the option.
    """
    config = model.config
    check_expressible(config)
    return {
        _llama_name(name): _halves(weight, config.d_head) if _is_turned(name) else weight
        for name, weight in model.state_dict().items()
    }


def from_llama_state_dict(
    config: TransformerConfig, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return weights of a Llama or Qwen3 as the state dict of `TransformerLM(config)`.

    Those whose rows change places are copies, the others are the tensors of `state`. A tied model
    may come with an `lm_head.weight` if it equals the embedding.

    Raises:
        ValueError: if neither can express the model, a name is missing or unknown, a shape is not
            that of the config, or the model is to be tied and its head is another.
    """
    check_expressible(config)
    if len(state) < config.num_layers:  # before as many layers are made as a file may claim
        raise ValueError(
            f"state must hold the tensors of {config.num_layers} layers, got {len(state)} tensors"
        )
    # The weights do not depend on the context, for which tables of angles are made.
    model = replace(config, context_length=1)
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in TransformerLM(model).state_dict().items()}
    names = {_llama_name(name): name for name in shapes}
    given = dict(state)
    if config.tie_embeddings and "lm_head.weight" in given:
        head = given.pop("lm_head.weight")
        embedding = given.get("model.embed_tokens.weight")
        if embedding is not None and not torch.equal(head, embedding):
            raise ValueError(
                "lm_head.weight must equal model.embed_tokens.weight with tie_embeddings=True"
            )
    missing, unknown = sorted(names.keys() - given), sorted(given.keys() - names)
    if missing or unknown:
        raise ValueError(
            "state must hold the names of the config, "
            f"missing {', '.join(missing) or 'none'}; unknown {', '.join(unknown) or 'none'}"
        )
    ours: dict[str, Tensor] = {}
    for theirs, name in names.items():
        weight = given[theirs]
        if weight.shape != shapes[name]:
            raise ValueError(
                f"{theirs} must have shape {tuple(shapes[name])}, got {tuple(weight.shape)}"
            )
        ours[name] = _neighbours(weight, config.d_head) if _is_turned(name) else weight
    return ours


def _llama_name(name: str) -> str:
    part = name.removesuffix(".weight")
    layer = re.match(r"layers\.\d+\.", part)
    if layer is None:
        return f"{_NAMES[part]}.weight"
    return f"model.{layer[0]}{_NAMES[part[layer.end() :]]}.weight"


def _is_turned(name: str) -> bool:
    return name.split(".")[-2] in _TURNED


def _halves(weight: Tensor, d_head: int) -> Tensor:
    """Bring features 0, 1, 2, 3, .. of each head to the order 0, 2, .., 1, 3, .."""
    order = "(heads half two) ... -> (heads two half) ..."
    return rearrange(weight, order, two=2, half=d_head // 2).contiguous()


def _neighbours(weight: Tensor, d_head: int) -> Tensor:
    """Undo `_halves`."""
    order = "(heads two half) ... -> (heads half two) ..."
    return rearrange(weight, order, two=2, half=d_head // 2).contiguous()
