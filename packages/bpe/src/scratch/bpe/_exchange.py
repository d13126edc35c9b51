"""Files for other programs: written only if they mean the same vocabulary when read back."""

from collections.abc import Mapping, Sequence
from dataclasses import fields

from ._encode import PlainEncoder
from ._vocabulary import Vocabulary

_LEAST_TOO_GREAT = 2**32 - 1  # tiktoken and tokenizers keep ids in 32 bits, tiktoken one for itself

_SAMPLE_TOKENS = 2000
_SAMPLE_TEXT = (
    "It's 1234567 o'clock, they'LL've 3.14;  two  spaces \t tab\r\n\r\n \n   Gr\u00fc\u00dfe "
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u4eca\u65e5\u306f\u3000\u3002 e\u0301\u00a0x "
    "\U0001f600\U0001f680 camelCase HTTPServer !?... \x00 \n  "
)


def ids_by_token(tokens: Mapping[int, bytes]) -> dict[bytes, int]:
    """Return the id of each token.

    Raises:
        ValueError: if two ids have the same bytes, or one takes more than 32 bits.
    """
    ids: dict[bytes, int] = {}
    for token_id, token in tokens.items():
        if token_id >= _LEAST_TOO_GREAT:
            raise ValueError(f"ids must be below 2**32 - 1 to be exchanged, got {token_id}")
        if token in ids:
            raise ValueError(
                f"each token must have one id to be exchanged, got {ids[token]} and {token_id} "
                f"for {token!r}"
            )
        ids[token] = token_id
    return ids


def check_distinct_merges(merges: Sequence[tuple[bytes, bytes]]) -> None:
    """Refuse a merge that comes twice: here the first counts, in tokenizers the last."""
    seen: set[tuple[bytes, bytes]] = set()
    for left, right in merges:
        if (left, right) in seen:
            raise ValueError(
                f"merges must be distinct to be exchanged, got {left!r} + {right!r} twice: "
                "programs differ in which of them counts"
            )
        seen.add((left, right))


def ordinary_tokens(vocabulary: Vocabulary) -> set[bytes]:
    """Return all tokens but those that are special and that no merge needs."""
    needed = {bytes([byte]) for byte in range(256)}
    for left, right in vocabulary.merges:
        needed |= {left, right, left + right}
    specials = {token.encode() for token in vocabulary.special_tokens}
    return set(vocabulary.tokens.values()) - (specials - needed)


def check_whole_words(vocabulary: Vocabulary, unreached: Sequence[bytes]) -> None:
    """Refuse whole words that are not just the tokens that no merges lead to, but special ones."""
    words, reachable = set(vocabulary.whole_words), set(vocabulary.tokens.values())
    reachable.difference_update(unreached)
    specials = {token.encode() for token in vocabulary.special_tokens}
    for token in unreached:
        if token not in words and token not in specials:
            raise ValueError(
                "whole_words must hold every token that no merges lead to in this format, "
                f"got no {token!r}: a word spelt so would be this token"
            )
    for word in vocabulary.whole_words:
        if word in reachable:
            raise ValueError(
                f"whole_words must be tokens that no merges lead to in this format, got {word!r}"
            )


def check_reads_back(vocabulary: Vocabulary, again: Vocabulary) -> None:
    """Refuse to write what would read back as another vocabulary, or encode a sample otherwise.

    Every reason known is refused before, by name. This is for those that are not.
    """
    for field in fields(Vocabulary):
        if getattr(vocabulary, field.name) != getattr(again, field.name):
            raise ValueError(f"the file would read back with other {field.name}; nothing written")
    step = len(vocabulary.tokens) // _SAMPLE_TOKENS + 1
    pieces = [token.decode(errors="ignore") for token in vocabulary.tokens.values()][::step]
    specials = "".join(vocabulary.special_tokens) + " ".join(vocabulary.special_tokens)
    text = _SAMPLE_TEXT + "".join(pieces) + "\n".join(pieces) + specials
    if PlainEncoder(vocabulary).encode(text) != PlainEncoder(again).encode(text):
        raise ValueError("the file would read back with other ids for a sample; nothing written")
