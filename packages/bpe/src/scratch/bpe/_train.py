"""Training a tokenizer: count the words of a corpus, then learn merges from the counts."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ._count import count_words
from ._merges import learn_merges
from ._patterns import GPT2, resolve_pattern
from ._pretokenize import check_special_tokens, check_surrogates
from ._stream import StrPath, read_text, safe_blocks
from ._vocabulary import Vocabulary

# A pool of processes takes longer to start than this much text to count.
_POOL_PAYS_BYTES = 8 * 2**20
_COUNT_BLOCK_CHARS = 2**21


def train_bpe(
    paths: StrPath | Sequence[StrPath],
    *,
    vocab_size: int,
    special_tokens: Sequence[str] = (),
    pattern: str = GPT2,
    workers: int | None = None,
) -> Vocabulary:
    """Learn a byte-level BPE vocabulary from UTF-8 text files.

    The vocabulary holds the 256 single bytes (ids 0 to 255), the merges in order of creation, and
    last the special tokens. It has fewer than `vocab_size` tokens if the text runs out of pairs;
    an empty file yields no merge at all.

    Args:
        paths: one file or several; words never reach across the end of a file.
        vocab_size: the most tokens to have, at least `256 + len(special_tokens)`.
        special_tokens: strings that part the text, count for nothing and get one id each.
        pattern: a name in `PATTERNS` or a regular expression whose matches are the words.
        workers: processes that count. By default one for small inputs, else one a core.

    Raises:
        TypeError: if a value is of the wrong type.
        ValueError: if a value is out of range, no file is named, or one is not UTF-8.
        OSError: if a file cannot be read.
    """
    files = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not files:
        raise ValueError("paths must name at least one file, got none")
    specials, pattern = _check(vocab_size, special_tokens, pattern)
    if workers is None:
        total_bytes = sum(Path(path).stat().st_size for path in files)
        workers = 1 if total_bytes < _POOL_PAYS_BYTES else _available_cores()
    elif isinstance(workers, bool) or not isinstance(workers, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"workers must be a whole number, got {workers!r}")
    elif workers < 1:
        raise ValueError(f"workers must be a whole number of at least 1, got {workers!r}")

    def blocks() -> Iterator[str]:
        for path in files:
            yield from safe_blocks(
                read_text(path),
                pattern=pattern,
                special_tokens=specials,
                block_chars=_COUNT_BLOCK_CHARS,
            )

    return _train(blocks(), vocab_size, specials, pattern, workers)


def train_bpe_from_iterator(
    texts: Iterable[str],
    *,
    vocab_size: int,
    special_tokens: Sequence[str] = (),
    pattern: str = GPT2,
) -> Vocabulary:
    """Learn a vocabulary as `train_bpe` does, from texts in memory or from a generator.

    Words never reach across the end of a text. Counts in the calling process.

    Raises:
        ValueError: as `train_bpe`, and for an unpaired surrogate, naming the text and the index.
    """
    specials, pattern = _check(vocab_size, special_tokens, pattern)
    if isinstance(texts, str):
        raise TypeError("texts must be an iterable of strings, got a single string; write [text]")

    def blocks() -> Iterator[str]:
        for number, text in enumerate(texts):
            check_surrogates(text, name=f"texts[{number}]")
            yield from safe_blocks(
                [text], pattern=pattern, special_tokens=specials, block_chars=_COUNT_BLOCK_CHARS
            )

    return _train(blocks(), vocab_size, specials, pattern, workers=1)


def _check(
    vocab_size: int, special_tokens: Sequence[str], pattern: str
) -> tuple[tuple[str, ...], str]:
    specials = check_special_tokens(special_tokens)
    for token in specials:
        if len(token.encode()) == 1:
            raise ValueError(
                f"special_tokens must be longer than one byte, got {token!r}: "
                "every single byte is a token already"
            )
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"vocab_size must be a whole number, got {vocab_size!r}")
    least = 256 + len(specials)
    if vocab_size < least:
        raise ValueError(
            f"vocab_size must be at least {least} (256 bytes and {len(specials)} special tokens), "
            f"got {vocab_size}"
        )
    return specials, resolve_pattern(pattern)


def _train(
    blocks: Iterable[str], vocab_size: int, specials: tuple[str, ...], pattern: str, workers: int
) -> Vocabulary:
    counts = count_words(blocks, pattern=pattern, special_tokens=specials, workers=workers)
    merges = learn_merges(counts, vocab_size - 256 - len(specials))
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [left + right for left, right in merges]
    tokens += [token.encode() for token in specials]
    return Vocabulary(dict(enumerate(tokens)), tuple(merges), specials, pattern)


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
