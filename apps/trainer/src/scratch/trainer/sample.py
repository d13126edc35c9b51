"""Sampling: the model continues a text, which is shown as it grows."""

import codecs
from collections.abc import Iterator

import torch

from scratch.bpe import Tokenizer
from scratch.nn import TransformerLM, generate

from .commands import GenerateSettings
from .corpus import END_OF_TEXT
from .device import choose_device
from .run import RunDirectory


def continue_text(
    model: TransformerLM,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float,
    seed: int | None,
) -> Iterator[str]:
    """Yield the text that continues `prompt`, in whole characters, until the document ends.

    Raises:
        ValueError: if the prompt is longer than the context of the model.
    """
    end_of_text = tokenizer.special_tokens[END_OF_TEXT]
    ids = generate(
        model,
        torch.tensor([end_of_text, *tokenizer.encode(prompt)]),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop=end_of_text,
        seed=seed,
    )

    def characters() -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token_id in ids:
            if text := decoder.decode(tokenizer.token_bytes(token_id)):
                yield text
        if rest := decoder.decode(b"", final=True):
            yield rest

    return characters()


def print_sample(settings: GenerateSettings) -> None:
    run = RunDirectory(settings.run)
    model = run.load_model(choose_device(settings.device))
    pieces = continue_text(
        model,
        run.tokenizer(),
        settings.prompt,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        seed=settings.seed,
    )
    print(settings.prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
