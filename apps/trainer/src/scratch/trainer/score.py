"""Scoring text: how many bits a trained model needs for each byte of it."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
from torch import Tensor

from scratch.bpe import Tokenizer
from scratch.nn import TransformerLM, fast_matmul, linear_cross_entropy
from scratch.train import Batch, Evaluation, Tokens, evaluate, evaluation_batches

from .commands import EvaluateSettings
from .corpus import END_OF_TEXT, Document, find_documents
from .device import choose_device
from .journal import without_non_finite
from .prepare import PreparedData
from .run import RunDirectory


@dataclass(frozen=True)
class Score:
    """What a model makes of some text; each token is scored once, in nats unless named."""

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    bytes: int


def next_token_loss(model: TransformerLM, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of the targets, which belong to the last inputs."""
    scored = batch.targets.shape[-1]
    if scored == batch.inputs.shape[-1]:
        return model.loss(batch.inputs, batch.targets)
    hidden = model.hidden(batch.inputs)[:, -scored:]
    cap = model.config.logit_cap
    return linear_cross_entropy(hidden, model.head_weight, batch.targets, logit_cap=cap)


def evaluate_tokens(model: TransformerLM, tokens: Tokens, *, batch_size: int = 32) -> Evaluation:
    """Score every token of a stream but the first, in windows side by side: the quick look."""
    return _evaluate(model, [tokens], stride=model.config.context_length, batch_size=batch_size)


def evaluate_documents(
    model: TransformerLM, documents: Iterable[Tokens], *, batch_size: int
) -> Evaluation:
    """Score every token of each document but the first, which is context only.

    Windows slide by half a context, so that tokens past the first window have at least as much
    context.
    """
    stride = max(1, model.config.context_length // 2)
    return _evaluate(model, documents, stride=stride, batch_size=batch_size)


def encode_documents(tokenizer: Tokenizer, documents: Iterable[Document]) -> Iterator[Tokens]:
    """Yield the ids of each document after an `<|endoftext|>`."""
    end_of_text = tokenizer.special_tokens[END_OF_TEXT]
    for document in documents:
        ids = [end_of_text, *tokenizer.encode_iterable(document.read())]
        yield np.asarray(ids, np.uint32)


def split_documents(tokens: Tokens, end_of_text: int) -> Iterator[Tokens]:
    """Yield the parts of a token stream that begin at each `<|endoftext|>`."""
    starts = np.flatnonzero(np.asarray(tokens) == end_of_text)
    for start, stop in zip(starts, [*starts[1:], len(tokens)], strict=True):
        yield tokens[start:stop]


def score(settings: EvaluateSettings) -> Score:
    """Score files, or the held-out text of the run.

    Raises:
        ValueError: if there is no trained model, or no text.
    """
    run = RunDirectory(settings.run)
    model = run.load_model(choose_device(settings.device))
    tokenizer = run.tokenizer()
    if settings.files:
        found = find_documents(settings.files)
        documents = encode_documents(tokenizer, found)
        num_bytes = sum(document.num_bytes for document in found)
    else:
        data = PreparedData.open(run.settings().data)
        if data.validation is None:
            raise ValueError(f"{run.settings().data} holds no held-out text; name a file to score")
        if data.tokenizer.vocabulary != tokenizer.vocabulary:
            raise ValueError(f"{run.settings().data} must have the tokenizer of {settings.run}")
        documents = split_documents(data.validation, tokenizer.special_tokens[END_OF_TEXT])
        num_bytes = data.manifest["splits"]["validation"]["bytes"]
    evaluation = evaluate_documents(model, documents, batch_size=settings.batch_size)
    return Score(
        loss=evaluation.loss,
        perplexity=evaluation.perplexity,
        bits_per_byte=evaluation.bits_per_byte(num_bytes),
        tokens=evaluation.tokens,
        bytes=num_bytes,
    )


def print_score(settings: EvaluateSettings) -> None:
    result = score(settings)
    if settings.json_output:
        print(json.dumps(without_non_finite(asdict(result))))
        return
    what = ", ".join(map(str, settings.files)) or "held-out text"
    print(f"{what}: {result.bytes:,} bytes, {result.tokens:,} tokens")
    print(f"loss           {result.loss:.4f} nats per token")
    print(f"perplexity     {result.perplexity:.2f}")
    print(f"bits per byte  {result.bits_per_byte:.4f}")


def _evaluate(
    model: TransformerLM, sequences: Iterable[Tokens], *, stride: int, batch_size: int
) -> Evaluation:
    batches = evaluation_batches(
        sequences,
        context_length=model.config.context_length,
        batch_size=batch_size,
        stride=stride,
        device=model.head_weight.device,
    )
    with fast_matmul():
        return evaluate(model, batches, loss=next_token_loss)
