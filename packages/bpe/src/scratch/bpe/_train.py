"""Training a tokenizer: count the words of a corpus, then learn merges from the counts."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

from ._batched_merges import learn_merges_in_batches
from ._parts import Part, split_into_parts
from ._patterns import GPT2, resolve_pattern
from ._pretokenize import check_special_tokens, encode_utf8
from ._read import Errors, check_errors, read_blocks
from ._stream import StrPath
from ._vocabulary import Vocabulary
from ._word_counts import WordCounts
from ._word_keys import WordKeys
from ._words import WordScanner
from ._workers import (
    Afar,
    Progress,
    available_cores,
    check_workers,
    executor_of,
    run_in_order,
)

# A pool of processes takes longer to start than this much text to count.
_POOL_PAYS_BYTES = 16 * 2**20
_LEAST_PART_BYTES, _MOST_PART_BYTES = 2**20, 2**25
_PARTS_PER_WORKER = 4


def train_bpe(
    paths: StrPath | Sequence[StrPath],
    *,
    vocab_size: int,
    special_tokens: Sequence[str] = (),
    pattern: str = GPT2,
    min_frequency: int = 1,
    workers: int | None = None,
    executor: Executor | None = None,
    errors: Errors = "strict",
    progress: Progress | None = None,
) -> Vocabulary:
    """Learn a byte-level BPE vocabulary from UTF-8 text files, plain or compressed.

    The vocabulary holds the 256 single bytes (ids 0 to 255), the merges in order of creation, and
    last the special tokens. It has fewer than `vocab_size` tokens if the text runs out of pairs;
    an empty file yields no merge at all.

    Args:
        paths: one file or several; words never reach across the end of a file.
        vocab_size: the most tokens to have, at least `256 + len(special_tokens)`.
        special_tokens: strings that part the text, count for nothing and get one id each.
        pattern: a name in `PATTERNS` or a regular expression whose matches are the words.
        min_frequency: the fewest times that a pair must occur to be merged.
        workers: processes that count. By default one for small inputs, else one a core.
        executor: counts in place of processes of our own; any `concurrent.futures.Executor`
            whose workers see the files.
        errors: "strict" refuses files that are not UTF-8, "replace" reads U+FFFD there.
        progress: called with "count", the bytes counted and the bytes in all, then with "merge",
            the merges learnt and the most there can be.

    Raises:
        TypeError: if a value is of the wrong type.
        ValueError: if a value is out of range, no file is named, or one is not UTF-8.
        ImportError: if a file is compressed with zstd and the extra `zstd` is missing.
        OSError: if a file cannot be read.
    """
    files = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not files:
        raise ValueError("paths must name at least one file, got none")
    specials, pattern = _check(vocab_size, special_tokens, pattern, min_frequency)
    check_errors(errors)
    check_workers(workers, executor)
    total_bytes = sum(Path(path).stat().st_size for path in files)
    if workers is None:
        workers = 1 if total_bytes < _POOL_PAYS_BYTES else available_cores()
    part_bytes = total_bytes // (_PARTS_PER_WORKER * workers)
    parts = split_into_parts(
        files,
        part_bytes=max(_LEAST_PART_BYTES, min(part_bytes, _MOST_PART_BYTES)),
        pattern=pattern,
        special_tokens=specials,
    )
    count = partial(_count_part, pattern=pattern, special_tokens=specials, errors=errors)
    if executor is not None:
        count, parts = Afar(count), (part.absolute() for part in parts)
    counts, counted_bytes = WordCounts(), 0
    with executor_of(executor, workers) as pool:
        for part, found in run_in_order(pool, count, parts):
            counts.update(found)
            del found  # or it would be held while merges are learnt
            counted_bytes += part.size
            if progress is not None:
                progress("count", counted_bytes, total_bytes)
    return _learn(counts, vocab_size, specials, pattern, min_frequency, progress)


def train_bpe_from_iterator(
    texts: Iterable[str],
    *,
    vocab_size: int,
    special_tokens: Sequence[str] = (),
    pattern: str = GPT2,
    min_frequency: int = 1,
    progress: Progress | None = None,
) -> Vocabulary:
    """Learn a vocabulary as `train_bpe` does, from texts in memory or from a generator.

    Words never reach across the end of a text. Counts in the calling process.

    Raises:
        ValueError: as `train_bpe`, and for an unpaired surrogate, naming the text and the index.
    """
    specials, pattern = _check(vocab_size, special_tokens, pattern, min_frequency)
    if isinstance(texts, str):
        raise TypeError("texts must be an iterable of strings, got a single string; write [text]")
    encoded = (encode_utf8(text, name=f"texts[{number}]") for number, text in enumerate(texts))
    counts, counted_bytes = WordCounts(), 0
    for window in WordScanner(pattern, specials).windows_of_texts(encoded):
        counts.add(WordKeys(window))
        counted_bytes += len(window.buffer)
        if progress is not None:
            progress("count", counted_bytes, 0)
    return _learn(counts, vocab_size, specials, pattern, min_frequency, progress)


def _count_part(
    part: Part, *, pattern: str, special_tokens: tuple[str, ...], errors: Errors
) -> WordCounts:
    counts = WordCounts()
    blocks = read_blocks(part.path, errors=errors, start=part.start, stop=part.stop)
    for window in WordScanner(pattern, special_tokens).windows(blocks):
        counts.add(WordKeys(window))
    counts.merge()
    return counts


def _check(
    vocab_size: int, special_tokens: Sequence[str], pattern: str, min_frequency: int
) -> tuple[tuple[str, ...], str]:
    specials = check_special_tokens(special_tokens)
    for token in specials:
        if len(token.encode()) == 1:
            raise ValueError(
                f"special_tokens must be longer than one byte, got {token!r}: "
                "every single byte is a token already"
            )
    for name, value in (("vocab_size", vocab_size), ("min_frequency", min_frequency)):
        if isinstance(value, bool) or not isinstance(value, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"{name} must be a whole number, got {value!r}")
    least = 256 + len(specials)
    if vocab_size < least:
        raise ValueError(
            f"vocab_size must be at least {least} (256 bytes and {len(specials)} special tokens), "
            f"got {vocab_size}"
        )
    if min_frequency < 1:
        raise ValueError(f"min_frequency must be at least 1, got {min_frequency}")
    return specials, resolve_pattern(pattern)


def _learn(
    counts: WordCounts,
    vocab_size: int,
    specials: tuple[str, ...],
    pattern: str,
    min_frequency: int,
    progress: Progress | None,
) -> Vocabulary:
    max_merges = vocab_size - 256 - len(specials)

    def tell(done: int) -> None:
        if progress is not None:
            progress("merge", done, max_merges)

    merges = learn_merges_in_batches(
        counts.table(), max_merges, min_frequency=min_frequency, progress=tell
    )
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [left + right for left, right in merges]
    tokens += [token.encode() for token in specials]
    return Vocabulary(dict(enumerate(tokens)), tuple(merges), specials, pattern)
