"""Hugging Face's added tokens: those that are what we call special tokens, and their ids."""

import json
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from ._gpt2 import check_unmistakable

PLAIN_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False}


def special_ids_of(
    added_tokens: Sequence[Mapping[str, Any]], vocab: Mapping[str, int]
) -> dict[str, int]:
    """Return the id of each added token: that in `vocab`, or counted on from there in order."""
    ids: dict[str, int] = {}
    for token in added_tokens:
        content = token["content"]
        for flag, value in PLAIN_FLAGS.items():
            where = f"{flag} of the added token {content!r}"
            require(where, token[flag], (value,), "it must be found wherever it stands")
        if content in ids:
            raise ValueError(f"added_tokens must be distinct, got {content!r} twice")
        check_unmistakable(content)
        ids[content] = token["id"]
    lacking = [content for content in ids if content not in vocab]
    if lacking and max(vocab.values()) >= len(vocab):
        raise ValueError(
            f"model.vocab must hold the added token {lacking[0]!r} or have no gaps in its ids: "
            "versions of tokenizers differ in which id it gets"
        )
    given = {content: number for number, content in enumerate(lacking, start=len(vocab))}
    for content, token_id in ids.items():
        theirs = vocab.get(content, given.get(content))
        where = f"id of the added token {content!r}"
        require(where, token_id, (theirs,), "tokenizers gives it that")
    _check_order_of_search(added_tokens)
    return ids


def _check_order_of_search(added_tokens: Sequence[Mapping[str, Any]]) -> None:
    """Refuse overlapping tokens of both kinds: tokenizers finds those not normalized first."""
    normalized = [token["content"] for token in added_tokens if token["normalized"]]
    others = [token["content"] for token in added_tokens if not token["normalized"]]
    for one, other in product(normalized, others):
        if _may_overlap(one, other) or _may_overlap(other, one):
            raise ValueError(
                "added_tokens that can overlap must be all normalized or none, "
                f"got {one!r} and {other!r}: tokenizers looks for {other!r} first"
            )


def _may_overlap(first: str, second: str) -> bool:
    """Tell whether `second` can begin within `first`."""
    return any(second.startswith(first[start : start + len(second)]) for start in range(len(first)))


def require(name: str, got: object, allowed: Sequence[object], reason: str) -> None:
    if got not in allowed:
        values = " or ".join(json.dumps(value) for value in allowed)
        raise ValueError(f"{name} must be {values}, got {json.dumps(got)}: {reason}")
