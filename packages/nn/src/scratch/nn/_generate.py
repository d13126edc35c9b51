"""Generation: draw the next token, append it, ask again."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._checks import as_indices, check_at_least_one
from ._softmax import softmax
from ._transformer import TransformerLM


def generate(
    model: TransformerLM,
    prompt: Int[Tensor, " seq"],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    stop: int | None = None,
    seed: int | None = None,
) -> Iterator[int]:
    """Yield the ids that continue `prompt`, one by one as they are drawn.

    Args:
        model: the model; its own device is used. The draws are made on the CPU, so that one seed
            means the same on every device.
        prompt: at least one id, at most `context_length`. When prompt and continuation together
            grow longer than that, the model sees the latest `context_length` ids.
        max_new_tokens: how many ids to yield at most.
        temperature, top_k, top_p: see `sampling_distribution`.
        stop: end before this id; it is not yielded.
        seed: of the draws; `None` draws anew every time.

    Raises:
        TypeError, ValueError: at the call, if an argument is not as it must be; later, if the model
            answers with NaN.
    """
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    config = model.config
    if prompt.ndim != 1 or not 1 <= len(prompt) <= config.context_length:
        raise ValueError(
            f"prompt must be 1 to {config.context_length} ids (the context of the model) "
            f"in one dimension, got shape {tuple(prompt.shape)}"
        )
    if not isinstance(max_new_tokens, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"max_new_tokens must be a whole number, got {max_new_tokens!r}")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must not be negative, got {max_new_tokens}")
    ids = as_indices(prompt.clone().cpu(), config.vocab_size, name="prompt", rule="the vocabulary")
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)

    def draw_one_by_one() -> Iterator[int]:
        window = ids.to(model.head_weight.device)
        for _ in range(max_new_tokens):
            logits = _last_logits(model, window)
            distribution = sampling_distribution(
                logits, temperature=temperature, top_k=top_k, top_p=top_p
            )
            if not distribution.isfinite().all():
                raise ValueError("logits must be numbers, got NaN: the weights are beyond use")
            drawn = torch.multinomial(distribution, 1, generator=generator)
            if (token := int(drawn)) == stop:
                return
            yield token
            window = torch.cat((window, drawn.to(window.device)))[-config.context_length :]

    return draw_one_by_one()


def sampling_distribution(
    logits: Float[Tensor, "*batch vocab"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Float[Tensor, "*batch vocab"]:
    """Return the probabilities to draw the next token from.

    In this order: divide the logits by `temperature` (0 puts all mass on the greatest, the first of
    equal ones); keep the `top_k` likeliest tokens; of those keep the likeliest that together reach
    `top_p` of the mass, as few as possible (Holtzman et al., 2019, arXiv:1904.09751).

    Works in float32 or wider, which is the dtype of the result.

    Raises:
        TypeError: if `top_k` is not a whole number.
        ValueError: if `temperature` is negative, `top_k` below 1 or `top_p` not in (0, 1].
    """
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature == 0:
        best = logits.argmax(-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, best, 1.0)
    # Subtracting the greatest first keeps a low temperature from overflowing; one that the dtype
    # cannot hold would be 0 or infinite, and divide to what is not a number.
    limits = torch.finfo(logits.dtype)
    temperature = min(max(temperature, limits.tiny), limits.max)
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperature
    mass, order = softmax(scaled).sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        mass[..., top_k:] = 0
        mass = mass / mass.sum(-1, keepdim=True)
    if top_p < 1:
        kept = mass.cumsum(-1) - mass < top_p
        kept[..., 0] = True  # also where `top_p` is less than the dtype can hold
        mass = torch.where(kept, mass, 0)
        mass = mass / mass.sum(-1, keepdim=True)
    return torch.zeros_like(mass).scatter(-1, order, mass)


def check_sampling(*, temperature: float, top_k: int | None, top_p: float) -> None:
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be 0 (greedy) or a positive number, got {temperature}")
    if top_k is not None:
        check_at_least_one(top_k=top_k)
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")


@torch.no_grad()
def _last_logits(model: TransformerLM, window: Int[Tensor, " seq"]) -> Float[Tensor, " vocab"]:
    return model(window)[-1].float().cpu()
