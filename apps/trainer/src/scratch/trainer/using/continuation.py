"""Continuing a text with a model: one text as it grows, or several at once."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from scratch.bpe import StreamDecoder, Tokenizer
from scratch.nn import TransformerLM, generate, generate_batch

from ..data.corpus import END_OF_TEXT
from .stop_strings import StopStrings

FinishReason = Literal["end_of_text", "length", "stop"]

_AT_ONCE = 64  # texts, whose keys and values are in memory together


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to draw, and when to end besides at the end of the document.

    Attributes:
        max_new_tokens: the most tokens to draw.
        temperature, top_k, top_p, min_p: see `scratch.nn.sampling_distribution`.
        stop: texts to end before.
        long_prompt: what to do about more tokens than the context holds: "error" refuses them,
            "crop" takes the latest.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    long_prompt: Literal["error", "crop"] = "error"

    def options(self) -> dict[str, Any]:
        """Return what `scratch.nn.generate` is told."""
        names = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "long_prompt")
        return {name: getattr(self, name) for name in names}


class Continuation:
    """A text that grows by tokens, in whole characters, up to a stop string.

    Attributes:
        tokens: how many were drawn, those of a stop string among them.
        finish_reason: why the text ended; None as long as it grows.
    """

    def __init__(self, tokenizer: Tokenizer, sampling: Sampling) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._stop = StopStrings(sampling.stop)
        self._most = sampling.max_new_tokens
        self.tokens = 0
        self.finish_reason: FinishReason | None = None

    def follow(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield the text of the ids as it grows, up to its end."""
        for token_id in ids:
            if text := self.add(token_id):
                yield text
            if self.finish_reason is not None:
                return
        if text := self.finish():
            yield text

    def add(self, token_id: int) -> str:
        """Return the text that one more token makes certain, which may be empty."""
        self.tokens += 1
        text = self._stop.feed(self._decoder.feed(token_id))
        if self._stop.found:
            self.finish_reason = "stop"
        return text

    def finish(self) -> str:
        """Return the rest, as no more tokens will come."""
        text = self._stop.feed(self._decoder.finish())
        if self._stop.found:
            self.finish_reason = "stop"
        else:
            self.finish_reason = "end_of_text" if self.tokens < self._most else "length"
        return text + self._stop.finish()


@dataclass(frozen=True)
class Sample:
    """A text that a model wrote.

    Attributes:
        text: what continues the prompt.
        tokens: how many were drawn, those of a stop string among them.
        finish_reason: "end_of_text" where the document ended, "stop" before a stop string,
            "length" when there were as many tokens as wanted.
    """

    text: str
    tokens: int
    finish_reason: FinishReason

    @classmethod
    def of(cls, text: str, continuation: Continuation) -> Self:
        """Return the sample that a continuation has become."""
        assert continuation.finish_reason is not None
        return cls(text, continuation.tokens, continuation.finish_reason)


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> Tensor:
    """Return the ids of a prompt, which begins a document."""
    return torch.tensor([tokenizer.special_tokens[END_OF_TEXT], *tokenizer.encode(prompt)])


def draw_tokens(
    model: TransformerLM,
    tokenizer: Tokenizer,
    prompt: str,
    sampling: Sampling,
    *,
    seed: int | None,
) -> Iterator[int]:
    """Yield the tokens that continue `prompt` up to the end of the document, as they are drawn.

    Raises:
        ValueError: at the call, if the prompt is longer than the context.
    """
    end_of_text = tokenizer.special_tokens[END_OF_TEXT]
    ids = prompt_ids(tokenizer, prompt)
    return generate(model, ids, stop=end_of_text, seed=seed, **sampling.options())


def continue_many(
    model: TransformerLM,
    tokenizer: Tokenizer,
    prompt: str,
    sampling: Sampling,
    *,
    samples: int,
    seed: int,
) -> Iterator[Sample]:
    """Yield several texts that continue `prompt`, drawn side by side.

    Raises:
        ValueError: if the prompt is longer than the context.
    """
    ids = prompt_ids(tokenizer, prompt)
    groups = range(0, samples, _AT_ONCE)
    seeds = np.random.SeedSequence(seed).generate_state(len(groups), np.uint64) >> 1
    for first, group_seed in zip(groups, seeds.tolist(), strict=True):
        size = min(_AT_ONCE, samples - first)
        yield from _continue_group(model, tokenizer, [ids] * size, sampling, seed=group_seed)


def _continue_group(
    model: TransformerLM,
    tokenizer: Tokenizer,
    prompts: Sequence[Tensor],
    sampling: Sampling,
    *,
    seed: int,
) -> list[Sample]:
    rows = [Continuation(tokenizer, sampling) for _ in prompts]
    texts = [""] * len(rows)
    end_of_text = tokenizer.special_tokens[END_OF_TEXT]
    for drawn in generate_batch(model, prompts, stop=end_of_text, seed=seed, **sampling.options()):
        token_ids: list[int] = drawn.cpu().numpy().tolist()
        for number, (row, token_id) in enumerate(zip(rows, token_ids, strict=True)):
            if row.finish_reason is None:
                texts[number] += row.finish() if token_id < 0 else row.add(token_id)
        if all(row.finish_reason for row in rows):
            break
    samples: list[Sample] = []
    for row, text in zip(rows, texts, strict=True):
        rest = row.finish() if row.finish_reason is None else ""
        samples.append(Sample.of(text + rest, row))
    return samples
