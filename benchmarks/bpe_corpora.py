"""Texts to measure tokenizers on: files, the standard library's sources, generated languages."""

import sysconfig
from pathlib import Path

import numpy as np

END_OF_TEXT = "<|endoftext|>"

_CYRILLIC = ("бвгджзклмнпрстфхцчш", "аеиоуыя", " ")
_LATIN = ("bcdfghjklmnpqrstvwz", "aeiouäöüéàç", " ")
_LANGUAGES = {"cyrillic": _CYRILLIC, "latin": _LATIN}
_LEXICON, _HIRAGANA, _KANJI = 40_000, range(0x3041, 0x3094), range(0x4E00, 0x5800)


def stdlib_sources(size_bytes: int) -> bytes:
    """Return the interpreter's own Python files, one document each, about `size_bytes` of them."""
    root = Path(sysconfig.get_path("stdlib"))
    content = bytearray()
    for path in sorted(root.rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError:  # the standard library tests bad files, too
            continue
        content += text.encode() + END_OF_TEXT.encode()
        if len(content) >= size_bytes:
            break
    return bytes(content)


def generated_languages(size_bytes: int, seed: int = 0) -> bytes:
    """Return documents of made-up words in Cyrillic, Latin, and a script without spaces.

    Words follow Zipf's law, as those of real languages do, and the same seed gives the same text.
    """
    rng = np.random.default_rng(seed)
    lexicons = [_lexicon(rng, *language) for language in _LANGUAGES.values()]
    lexicons.append(_lexicon_without_spaces(rng))
    frequency = 1 / np.arange(10, _LEXICON + 10)
    frequency /= frequency.sum()
    content = bytearray()
    while len(content) < size_bytes:
        for words in lexicons:
            chosen = rng.choice(_LEXICON, size=2000, p=frequency)
            ends = rng.random(2000) < 0.08
            text = "".join(
                words[word] + (".\n" if end else "") for word, end in zip(chosen, ends, strict=True)
            )
            content += text.encode() + END_OF_TEXT.encode()
    return bytes(content)


def _lexicon(rng: np.random.Generator, consonants: str, vowels: str, space: str) -> list[str]:
    words: list[str] = []
    for syllables in rng.integers(1, 5, _LEXICON):
        letters = [
            rng.choice(list(consonants)) + rng.choice(list(vowels)) for _ in range(syllables)
        ]
        words.append(space + "".join(letters))
    return words


def _lexicon_without_spaces(rng: np.random.Generator) -> list[str]:
    kanji = 1 / np.arange(5, len(_KANJI) + 5)
    kanji /= kanji.sum()
    words: list[str] = []
    for length in rng.integers(1, 4, _LEXICON):
        stem = "".join(chr(_KANJI[i]) for i in rng.choice(len(_KANJI), size=length, p=kanji))
        ending = "".join(chr(_HIRAGANA[i]) for i in rng.integers(0, len(_HIRAGANA), 2))
        words.append(stem + ending)
    return words
