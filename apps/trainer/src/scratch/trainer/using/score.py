"""Scoring text: how many bits a trained model needs for each byte of it."""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from scratch.bpe import Tokenizer
from scratch.nn import TransformerLM, fast_matmul
from scratch.train import (
    ALONE,
    Batch,
    Evaluation,
    Tokens,
    TokenStream,
    World,
    evaluate,
    evaluation_batches,
)

from ..commands import EvaluateSettings
from ..data.corpus import END_OF_TEXT, Document, find_documents
from ..data.prepared import PreparedData, split_documents
from ..device import choose_device
from ..runs.journal import without_non_finite
from ..runs.run import RunDirectory
from .compressors import Compressors


@dataclass(frozen=True)
class Score:
    """What a model makes of some text, next to compressors; each token is scored once.

    Attributes:
        loss: nats per token.
        perplexity: as uncertain as a choice between so many tokens.
        bits_per_byte: of the model.
        gzip_bits_per_byte, xz_bits_per_byte: of `gzip -9` and `xz -9`, which compress the very
            bytes that the model scores, all documents joined without the separators.
        tokens, bytes: of the documents.
        seconds: spent on reading and scoring; equal scores may differ in it.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    gzip_bits_per_byte: float
    xz_bits_per_byte: float
    tokens: int
    bytes: int
    seconds: float = field(compare=False)


class HasLoss(Protocol):
    """A `TransformerLM`, or a replica of one."""

    def loss(self, ids: Tensor, targets: Tensor, /) -> Tensor: ...


def next_token_loss(model: HasLoss, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of the targets, which belong to the last inputs."""
    return model.loss(batch.inputs, batch.targets)


def evaluate_tokens(
    model: TransformerLM, tokens: TokenStream, *, batch_size: int = 32, world: World = ALONE
) -> Evaluation:
    """Score every token of a stream but the first, in windows side by side: the quick look.

    Processes of a `world` share the work. Collective.
    """
    stride = model.config.context_length
    return _evaluate(model, [tokens], stride=stride, batch_size=batch_size, world=world)


def evaluate_documents(
    model: TransformerLM, documents: Iterable[TokenStream], *, batch_size: int
) -> Evaluation:
    """Score every token of each document but the first, which is context only.

    Windows slide by half a context, so that tokens past the first window have at least as much
    context.
    """
    stride = max(1, model.config.context_length // 2)
    return _evaluate(model, documents, stride=stride, batch_size=batch_size, world=ALONE)


def encode_documents(tokenizer: Tokenizer, documents: Iterable[Document]) -> Iterator[Tokens]:
    """Yield the ids of each document after an `<|endoftext|>`."""
    end_of_text = [tokenizer.special_tokens[END_OF_TEXT]]
    for document in documents:
        ids = tokenizer.encode_to_numpy("".join(document.read()))
        yield np.concatenate([np.array(end_of_text, ids.dtype), ids])


def score(settings: EvaluateSettings) -> Score:
    """Score files, or the held-out text of the run.

    Raises:
        ValueError: if there is no trained model, or no text.
        OSError: if a file cannot be read.
    """
    run = RunDirectory(settings.run)
    data = run.settings().data if settings.data is None else settings.data
    tokenizer = run.tokenizer()
    if settings.files:
        if settings.data is not None:
            raise ValueError("the text must come from files or from --data, got both")
        found = find_documents(settings.files, json_field=settings.json_field)
        documents = encode_documents(tokenizer, found)
    else:
        if settings.data is None and not (data / "manifest.json").is_file():
            raise ValueError(
                f"{data} must hold the prepared data of {run.path}, got no manifest.json in it; "
                "say where it is with --data, or name files to score"
            )
        documents = _held_out(data, run, tokenizer)
    model = run.load_model(choose_device(settings.device), settings.checkpoint)
    return score_documents(model, tokenizer, documents, batch_size=settings.batch_size)


def score_documents(
    model: TransformerLM, tokenizer: Tokenizer, documents: Iterable[Tokens], *, batch_size: int
) -> Score:
    """Score documents, each the ids of an `<|endoftext|>` and of its text."""
    started = time.monotonic()
    compressors = Compressors()

    def passing_by() -> Iterator[Tokens]:
        for document in documents:
            compressors.add(tokenizer.decode_bytes(document[1:]))
            yield document

    evaluation = evaluate_documents(model, passing_by(), batch_size=batch_size)
    seconds = time.monotonic() - started - compressors.seconds
    gzip_bytes, xz_bytes = compressors.finish()
    return Score(
        loss=evaluation.loss,
        perplexity=evaluation.perplexity,
        bits_per_byte=evaluation.bits_per_byte(compressors.num_bytes),
        gzip_bits_per_byte=8 * gzip_bytes / compressors.num_bytes,
        xz_bits_per_byte=8 * xz_bytes / compressors.num_bytes,
        tokens=evaluation.tokens,
        bytes=compressors.num_bytes,
        seconds=seconds,
    )


def print_score(settings: EvaluateSettings) -> None:
    result = score(settings)
    speed = result.tokens / result.seconds
    if settings.json_output:
        values = {**asdict(result), "tokens_per_second": speed}
        print(json.dumps(without_non_finite(values)))
        return
    what = ", ".join(map(str, settings.files)) or "held-out text"
    print(f"{what}: {result.bytes:,} bytes, {result.tokens:,} tokens, {speed:,.0f} tokens/s")
    print(f"loss           {result.loss:.4f} nats per token")
    print(f"perplexity     {result.perplexity:.2f}")
    print(f"bits per byte  {result.bits_per_byte:.4f}")
    print(f"       xz -9   {result.xz_bits_per_byte:.4f}")
    print(f"     gzip -9   {result.gzip_bits_per_byte:.4f}")


def _held_out(directory: Path, run: RunDirectory, tokenizer: Tokenizer) -> Iterator[Tokens]:
    data = PreparedData.open(directory)
    if data.validation is None:
        raise ValueError(f"{directory} holds no held-out text; name a file to score")
    if data.tokenizer.vocabulary != tokenizer.vocabulary:
        raise ValueError(f"{directory} must have the tokenizer of {run.path}")
    return split_documents(data.validation, tokenizer.special_tokens[END_OF_TEXT])


def _evaluate(
    model: TransformerLM,
    sequences: Iterable[TokenStream],
    *,
    stride: int,
    batch_size: int,
    world: World,
) -> Evaluation:
    batches = evaluation_batches(
        sequences,
        context_length=model.config.context_length,
        batch_size=batch_size,
        stride=stride,
        device=model.head_weight.device,
        world=world,
    )
    with fast_matmul():
        return evaluate(model, batches, loss=next_token_loss, world=world)
