"""What a model is asked to continue, and how far: the rules that `generate` checks at the call."""

from typing import Literal, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from ._checks import as_indices
from ._decoders import Execution
from ._transformer import TransformerLM

LongPrompt = Literal["error", "crop"]
Overflow = Literal["slide", "stop", "error"]


def check_limits(max_new_tokens: int, *, long_prompt: str, overflow: str, execution: str) -> None:
    if not isinstance(max_new_tokens, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"max_new_tokens must be a whole number, got {max_new_tokens!r}")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must not be negative, got {max_new_tokens}")
    for name, value, choices in (
        ("long_prompt", long_prompt, get_args(LongPrompt)),
        ("overflow", overflow, get_args(Overflow)),
        ("execution", execution, get_args(Execution)),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def as_prompt(
    prompt: Int[Tensor, " seq"], model: TransformerLM, *, name: str, long_prompt: LongPrompt
) -> Int[Tensor, " kept"]:
    """Return `prompt` as ids on the device of `model`, a copy that the caller cannot change."""
    config = model.config
    if prompt.ndim == 1 and long_prompt == "crop":
        prompt = prompt[-config.context_length :]
    if prompt.ndim != 1 or not 1 <= len(prompt) <= config.context_length:
        raise ValueError(
            f"{name} must be 1 to {config.context_length} ids (the context of the model) "
            f"in one dimension, got shape {tuple(prompt.shape)}"
        )
    ids = as_indices(prompt.clone().cpu(), config.vocab_size, name=name, rule="the vocabulary")
    return ids.to(model.head_weight.device)


def steps_allowed(
    prompt: Int[Tensor, " seq"],
    model: TransformerLM,
    max_new_tokens: int,
    overflow: Overflow,
    *,
    name: str,
) -> int:
    """Return how many ids may be drawn after `prompt`.

    The last one is drawn, but never read, so it needs no room.

    Raises:
        ValueError: if that is less than `max_new_tokens` and `overflow` is "error".
    """
    context = model.config.context_length
    fitting = context - len(prompt) + 1
    if overflow == "error" and max_new_tokens > fitting:
        raise ValueError(
            f'max_new_tokens must be at most {fitting} with overflow="error" (a context of '
            f"{context}, {len(prompt)} ids in {name}), got {max_new_tokens}"
        )
    return min(max_new_tokens, fitting) if overflow == "stop" else max_new_tokens


def seeded(device: torch.device, seed: int | None) -> torch.Generator:
    """Return a generator of its own; `None` seeds it anew."""
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def check_numbers(x: Tensor) -> None:
    """Refuse what is not a number, which waits for the device of `x`."""
    if x.isnan().any():
        raise ValueError("logits must be numbers, got NaN: the weights are beyond use")
