"""Tokenizers that others wrote, fitted to how this application uses one.

It puts an `<|endoftext|>` before each document itself, and gives the model a row for each id. So
what a `tokenizer.json` puts around a text is left out, the token that ends a document gets that
name, and rows of the model without a token get tokens that no text contains.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from scratch.bpe import Tokenizer, Vocabulary

from ..data.corpus import END_OF_TEXT
from ..watching.display import say


def read_tokenizer(source: Path, config: Mapping[str, Any], *, rows: int) -> Tokenizer:
    """Return the tokenizer of a model.

    Args:
        source: the directory with its tokenizer.json.
        config: its config.json, which tells the id that ends a text.
        rows: of its embedding.

    Raises:
        ValueError: if it is no byte-level BPE, has no token that ends a document, or more ids than
            the embedding has rows.
    """
    path = source / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{source} must hold a tokenizer.json, got none")
    tokenizer = _read(path)
    if tokenizer.vocab_size > rows:
        raise ValueError(
            f"{path} must have ids below {rows}, the rows of the embedding, "
            f"got ids up to {tokenizer.vocab_size - 1}"
        )
    vocabulary = _with_end_of_text(path, tokenizer, config)
    return Tokenizer.from_vocabulary(_with_a_token_for_each_row(vocabulary, rows))


def _read(path: Path) -> Tokenizer:
    try:
        content = dict(json.loads(path.read_bytes()))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} must hold a JSON object: {error}") from None
    content["post_processor"] = None
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tokenizer.json"
        copy.write_text(json.dumps(content), encoding="utf-8")
        try:
            return Tokenizer.from_huggingface(copy)
        except ValueError as error:
            raise ValueError(str(error).replace(str(copy), str(path))) from None


def _with_end_of_text(path: Path, tokenizer: Tokenizer, config: Mapping[str, Any]) -> Vocabulary:
    """Return the vocabulary, in which the token that ends a document is called as here."""
    vocabulary = tokenizer.vocabulary
    if END_OF_TEXT in vocabulary.special_tokens:
        return vocabulary
    ends = config.get("eos_token_id")
    ids = cast("list[int]", ends) if isinstance(ends, list) else [ends]
    names = {token_id: token for token, token_id in tokenizer.special_tokens.items()}
    name = next((names[token_id] for token_id in ids if token_id in names), None)
    if name is None:
        raise ValueError(
            f"{path} must have the special token {END_OF_TEXT}, or one with the eos_token_id of "
            f"config.json, got eos_token_id {ends} and {', '.join(names.values()) or 'none'}"
        )
    say(f"{name} ends a document, and is called {END_OF_TEXT} from here on")
    end_id = tokenizer.special_tokens[name]
    return replace(
        vocabulary,
        tokens={**vocabulary.tokens, end_id: END_OF_TEXT.encode()},
        special_tokens=tuple(
            END_OF_TEXT if token == name else token for token in vocabulary.special_tokens
        ),
    )


def _with_a_token_for_each_row(vocabulary: Vocabulary, rows: int) -> Vocabulary:
    """Return the vocabulary with tokens for the ids that it lacks up to the last row."""
    known = set(vocabulary.tokens.values())
    first = max(vocabulary.tokens) + 1
    padding = {token_id: f"<|reserved {token_id}|>" for token_id in range(first, rows)}
    if taken := known & {token.encode() for token in padding.values()}:
        raise ValueError(f"tokenizer.json must not have the token {min(taken)!r} by another id")
    return replace(
        vocabulary,
        tokens={**vocabulary.tokens, **{i: token.encode() for i, token in padding.items()}},
        special_tokens=(*vocabulary.special_tokens, *padding.values()),
    )
