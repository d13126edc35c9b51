"""Pre-tokenizer patterns: which stretches of text may become one token.

Merges never cross the matches of the pattern, so it decides what a token can look like: GPT-2's
keeps a word with the one space before it, apart from digits and punctuation.
"""

from functools import lru_cache

import regex

GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
"""GPT-2 (Radford et al., 2019)."""

CL100K = (
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"""
    r"""| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
"""GPT-3.5 and GPT-4: contractions in any case, digits by threes, line ends kept together."""

_O200K_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K_UPPER, _O200K_LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (
    rf"""[^\r\n\p{{L}}\p{{N}}]?{_O200K_UPPER}*{_O200K_LOWER}+{_O200K_CONTRACTION}"""
    rf"""|[^\r\n\p{{L}}\p{{N}}]?{_O200K_UPPER}+{_O200K_LOWER}*{_O200K_CONTRACTION}"""
    r"""|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
"""GPT-4o: as CL100K, and a word also ends where its capitals begin again."""

PATTERNS = {"gpt2": GPT2, "cl100k": CL100K, "o200k": O200K}
"""The named patterns. A name is accepted wherever a pattern is."""


def resolve_pattern(pattern: str) -> str:
    """Return the regular expression that `pattern` names, or `pattern` itself.

    Raises:
        TypeError: if it is not a string.
        ValueError: if it is neither a name in `PATTERNS` nor a valid regular expression, or its
            matches would not follow one another from left to right.
    """
    if not isinstance(pattern, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"pattern must be a string, got {pattern!r}")
    resolved = PATTERNS.get(pattern, pattern)
    compile_pattern(resolved)
    return resolved


_RESETS_ITS_START = regex.compile(r"(?<!\\)(?:\\\\)*\\K")


@lru_cache(maxsize=32)
def compile_pattern(pattern: str) -> regex.Pattern[str]:
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        known = ", ".join(PATTERNS)
        raise ValueError(
            f"pattern must be one of {known} or a regular expression, got {pattern!r}: {error}"
        ) from error
    if compiled.flags & regex.REVERSE or _RESETS_ITS_START.search(pattern):
        raise ValueError(f"pattern must search forwards, without (?r) or \\K, got {pattern!r}")
    return compiled
