r"""Pre-tokenization, the plain form: cut at special tokens, then let the pattern find the words.

A *word* here is a match of the pattern, also called a pre-token: " the", "!!", "\n\n".
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import regex


def check_special_tokens(special_tokens: Sequence[str]) -> tuple[str, ...]:
    """Return the special tokens as a tuple.

    Raises:
        TypeError: if they are one string, or contain something that is not a string.
        ValueError: if one is empty, occurs twice or holds an unpaired surrogate.
    """
    if isinstance(special_tokens, str):
        raise TypeError(
            "special_tokens must be a sequence of strings, "
            f"got the single string {special_tokens!r}; write [{special_tokens!r}]"
        )
    tokens = tuple(special_tokens)
    seen: set[str] = set()
    for token in tokens:
        if not isinstance(token, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"special_tokens must be strings, got {token!r}")
        if not token:
            raise ValueError("special_tokens must not be empty strings, got ''")
        if token in seen:
            raise ValueError(f"special_tokens must be distinct, got {token!r} twice")
        encode_utf8(token, name="special_tokens")
        seen.add(token)
    return tokens


def encode_utf8(text: str, *, name: str = "text", offset: int = 0) -> bytes:
    """Return `text` as UTF-8.

    `offset` is the index of `text[0]` in a longer text of which it is a part.

    Raises:
        TypeError: if it is not a string.
        ValueError: naming the index of the first unpaired surrogate.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{name} must be a string, got {type(text).__name__}: {text!r:.40}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} must not contain unpaired surrogates, "
            f"got {text[error.start]!r} at index {offset + error.start}"
        ) from None


@lru_cache(maxsize=32)
def compile_special_tokens(special_tokens: tuple[str, ...]) -> regex.Pattern[str] | None:
    """Return a pattern whose matches, left to right, are the special tokens of a text.

    Alternatives are tried in order, so longer ones stand first: where several special tokens
    start at one index, the longest wins.
    """
    if not special_tokens:
        return None
    longest_first = sorted(special_tokens, key=len, reverse=True)
    return regex.compile("|".join(regex.escape(token) for token in longest_first))


def split_special_tokens(
    text: str, special_tokens: regex.Pattern[str] | None
) -> Iterator[tuple[str, str | None]]:
    """Yield `(ordinary text, the special token after it)`, the last time with `None`."""
    start = 0
    if special_tokens is not None:
        for match in special_tokens.finditer(text):
            yield text[start : match.start()], match.group()
            start = match.end()
    yield text[start:], None


def find_words(text: str, pattern: regex.Pattern[str]) -> Iterator[str]:
    """Yield what `pattern` matches in ordinary text; what it leaves out is skipped."""
    for match in pattern.finditer(text):
        if word := match.group():
            yield word


def cover_with_words(text: str, pattern: regex.Pattern[str]) -> Iterator[tuple[str, str]]:
    """Yield `(text that the pattern leaves out, the word after it)`, together all of `text`.

    The named patterns leave nothing out. Where one of the user's does, nothing may be lost.
    """
    start = 0
    for match in pattern.finditer(text):
        if match.end() > match.start():
            yield text[start : match.start()], match.group()
            start = match.end()
    if start < len(text):
        yield text[start:], ""
