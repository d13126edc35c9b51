"""Sample texts with what tokenizers trip over, and a plain way to split at special tokens."""

import random
from typing import NamedTuple

from hypothesis import strategies as st

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
EOT = "<|endoftext|>"
FRAGMENTS = ["low", " lower", " newest", "they'll", "'s", " 12", "3", "!?", "...", "é", " naïve"]
FRAGMENTS += ["漢字", "🙃", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\x00", "\ufeff"]
FRAGMENTS += ["<|", "endoftext|>"]

UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
# Whatever Unicode version a pattern's tables have, they agree on what was assigned before it.
ASSIGNED = st.text(st.characters(exclude_categories=["Cs", "Cn"]))
NASTY = st.lists(st.sampled_from([*FRAGMENTS, EOT]) | ASSIGNED, max_size=40).map("".join)


class Trained(NamedTuple):
    vocab: dict[int, bytes]
    merges: list[tuple[bytes, bytes]]


def sample_text(seed: int, fragments: int, *, special_tokens: list[str] | None = None) -> str:
    """Return random fragments in a row, with some special tokens among them if given."""
    choices = FRAGMENTS + 2 * (special_tokens or [])
    return "".join(random.Random(seed).choices(choices, k=fragments))


def split_leftmost_longest(text: str, special_tokens: list[str]) -> list[tuple[str, str]]:
    """Return pairs `(ordinary text, the special token after it)`; the last token is empty."""
    parts, start, index = [], 0, 0
    while index < len(text):
        here = [token for token in special_tokens if text.startswith(token, index)]
        if here:
            longest = max(here, key=len)
            parts.append((text[start:index], longest))
            start = index = index + len(longest)
        else:
            index += 1
    return [*parts, (text[start:], "")]
