"""Generation: draw the next token, append it, ask again."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from ._decoders import Execution, choose_decoder
from ._limits import (
    LongPrompt,
    Overflow,
    as_prompt,
    check_limits,
    check_numbers,
    seeded,
    steps_allowed,
)
from ._sampling import check_sampling, draw, sampling_distribution
from ._transformer import TransformerLM


def generate(
    model: TransformerLM,
    prompt: Int[Tensor, " seq"],
    *,
    max_new_tokens: int,
    temperature: int | float = 1.0,
    top_k: int | None = None,
    top_p: int | float = 1.0,
    min_p: int | float = 0.0,
    stop: int | None = None,
    seed: int | None = None,
    long_prompt: LongPrompt = "error",
    overflow: Overflow = "slide",
    execution: Execution = "eager",
) -> Iterator[int]:
    """Yield the ids that continue `prompt`, one by one as they are drawn.

    Keys and values of earlier tokens are kept, so each step computes one token. The weights must
    not change in the meantime. A model with hooks, or of a class of its own, is asked for the
    whole window at each step instead, and so is any within `plain_forms`.

    Args:
        model: the model; its own device is used. The draws are made on the CPU, so that one seed
            means the same on every device.
        prompt: at least one id, at most `context_length`.
        max_new_tokens: how many ids to yield at most.
        temperature, top_k, top_p, min_p: see `sampling_distribution`.
        stop: end before this id; it is not yielded.
        seed: of the draws; `None` draws anew every time.
        long_prompt: what to do about more than `context_length` ids. "error" refuses them; "crop"
            takes the latest `context_length`.
        overflow: what to do when prompt and continuation together grow longer than the context.
            "slide": the model sees the latest `context_length` ids. Each of them then stands at a
            new position, so every further id costs a whole window. "stop": the id drawn from a full
            window is the last. "error": refuse at the call what might not fit.
        execution: "eager", or "compiled", which compiles the step once for all models and prompts
            of about this shape, and on a GPU replays it as a graph. On a CPU, "eager" keeps
            a copy of the weights in the order that it reads them.

    Raises:
        TypeError, ValueError: at the call, if an argument is not as it must be; later, if the model
            answers with NaN.
    """
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    check_limits(max_new_tokens, long_prompt=long_prompt, overflow=overflow, execution=execution)
    ids = as_prompt(prompt, model, name="prompt", long_prompt=long_prompt)
    steps = steps_allowed(ids, model, max_new_tokens, overflow, name="prompt")
    generator = seeded(torch.device("cpu"), seed)
    distribution_of = partial(
        sampling_distribution, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
    )

    def draw_one_by_one() -> Iterator[int]:
        if steps == 0:
            return
        decoder = choose_decoder(
            model, [ids], steps=steps, slides=overflow == "slide", execution=execution
        )
        drawn = ids[:0]
        for number in range(steps):
            logits = (decoder.step(drawn) if number else decoder.start()).cpu()
            if temperature == 0:
                greatest, choice = logits.max(-1)
                check_numbers(greatest)
            else:
                distribution = distribution_of(logits)
                check_numbers(distribution)
                choice = torch.multinomial(distribution, 1, generator=generator)[:, 0]
            if (token := int(choice)) == stop:
                return
            yield token
            drawn = choice.to(ids.device)

    return draw_one_by_one()


def generate_batch(
    model: TransformerLM,
    prompts: Sequence[Int[Tensor, " _"]],
    *,
    max_new_tokens: int,
    temperature: int | float = 1.0,
    top_k: int | None = None,
    top_p: int | float = 1.0,
    min_p: int | float = 0.0,
    stop: int | None = None,
    seed: int | None = None,
    long_prompt: LongPrompt = "error",
    overflow: Overflow = "slide",
    execution: Execution = "eager",
) -> Iterator[Int[Tensor, " batch"]]:
    """Yield the ids that continue each of `prompts`, a tensor of one id for each row at a time.

    The prompts may differ in length: each row is continued as if it were alone. The draws are made
    on the device of the model, where the ids stay, so that no step waits for another.

    A row that has ended, by `stop` or by `overflow="stop"`, gives -1 from there on; the iterator
    ends when all have. On a device other than the CPU it looks for that, and for NaN, every 16
    steps only, as looking means waiting: before that some tensors may be of -1 alone.

    Args:
        model: the model; its own device is used.
        prompts: at least one, each as in `generate`.
        max_new_tokens: how many ids to yield at most for each row.
        temperature, top_k, top_p, min_p: see `sampling_distribution`.
        stop: a row ends before this id, which is not yielded.
        seed: of the draws; `None` draws anew every time. One seed means the same for the same
            prompts on the same kind of device.
        long_prompt, overflow: see `generate`. With "slide", whole windows are read for all rows as
            soon as the longest row has filled the context.
        execution: see `generate`.

    Raises:
        TypeError, ValueError: as `generate`.
    """
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    check_limits(max_new_tokens, long_prompt=long_prompt, overflow=overflow, execution=execution)
    if len(prompts) == 0:  # also where they are the rows of a tensor
        raise ValueError("prompts must be at least one, got none")
    rows = [
        as_prompt(prompt, model, name=f"prompts[{number}]", long_prompt=long_prompt)
        for number, prompt in enumerate(prompts)
    ]
    allowed = [
        steps_allowed(row, model, max_new_tokens, overflow, name=f"prompts[{number}]")
        for number, row in enumerate(rows)
    ]
    device, steps = rows[0].device, max(allowed)
    generator = seeded(device, seed)
    distribution_of = partial(
        sampling_distribution, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
    )

    def draw_row_by_row() -> Iterator[Int[Tensor, " batch"]]:
        if steps == 0:
            return
        decoder = choose_decoder(
            model, rows, steps=steps, slides=overflow == "slide", execution=execution
        )
        look_every = _steps_between_looks(device)
        last = torch.tensor(allowed, device=device)
        ended = torch.zeros(len(rows), dtype=torch.bool, device=device)
        worst = torch.zeros((), device=device)
        drawn = last
        for number in range(steps):
            logits = decoder.step(drawn) if number else decoder.start()
            if temperature == 0:
                seen, drawn = logits.max(-1)
            else:
                seen = distribution_of(logits)
                drawn = draw(seen, generator=generator)
            worst = worst + seen.sum()
            if stop is not None:
                ended = ended | (drawn == stop)
            if min(allowed) < steps:
                ended = ended | (last <= number)
            if (number + 1) % look_every == 0 or number + 1 == steps:
                check_numbers(worst)
                if ended.all():
                    return
            yield torch.where(ended, -1, drawn)

    return draw_row_by_row()


def _steps_between_looks(device: torch.device) -> int:
    return 1 if device.type == "cpu" else 16
