r"""Streams of text, cut where a cut changes nothing.

Text arrives in chunks that end anywhere: inside a word, a special token, a character's bytes.
`safe_blocks` regroups them so that pre-tokenizing block by block equals pre-tokenizing the whole.

Where is a cut safe? Always at either end of a special token: ordinary text ends there. Elsewhere
it depends on the pattern. It must be a place where a match always ends, whatever follows, and where
what comes before no longer matters; since no pattern looks behind, the second follows from the
first. In the three named patterns such places are:

* Before a space, after a non-space. No match goes on from a non-space into a space, except that in
  CL100K and O200K punctuation takes the line ends after it. So for those two the space must not be
  a line end, or the non-space must be a letter or a digit.
* In CL100K and O200K, after a line end, before a non-space: a run of spaces is matched up to its
  last line end, and nothing goes on from a line end, except that O200K's punctuation takes a `/`.

The one look-ahead, `\s+(?!\S)`, is asked within a run of spaces, after its last line end; none of
these places leaves such a run open on its left. For any other pattern nobody has made the argument,
and only special tokens cut.
"""

import codecs
from collections.abc import Iterable, Iterator
from os import PathLike, fspath
from pathlib import Path

import regex

from ._patterns import CL100K, GPT2, O200K
from ._pretokenize import compile_special_tokens

StrPath = str | PathLike[str]

_SAFE_CUTS = {
    GPT2: r"(?<=\S)\s",
    CL100K: r"(?<=\S)[^\S\r\n]|(?<=[\p{L}\p{N}])\s|(?<=[\r\n])\S",
    O200K: r"(?<=\S)[^\S\r\n]|(?<=[\p{L}\p{N}])\s|(?<=[\r\n])[^\s/]",
}
_SAFE_CUT = {pattern: regex.compile(cuts) for pattern, cuts in _SAFE_CUTS.items()}
# `(?r)` searches backwards: the first match starts at the last safe cut.
_LAST_SAFE_CUT = {pattern: regex.compile(f"(?r){cuts}") for pattern, cuts in _SAFE_CUTS.items()}


def safe_blocks(
    chunks: Iterable[str],
    *,
    pattern: str,
    special_tokens: tuple[str, ...] = (),
    block_chars: int = 2**16,
) -> Iterator[str]:
    """Regroup `chunks` into blocks of about `block_chars` characters that end at safe cuts.

    Joined, the blocks are the joined chunks. A block grows past `block_chars` only while the text
    offers no safe cut, and the search for one doubles its stride, so the time stays linear.

    Raises:
        TypeError: if a chunk is not a string.
    """
    pending: list[str] = []
    pending_chars, wanted_chars = 0, block_chars
    for chunk in _pieces(chunks, block_chars):
        pending.append(chunk)
        pending_chars += len(chunk)
        if pending_chars < wanted_chars:
            continue
        text = "".join(pending)
        cut = last_safe_cut(text, pattern=pattern, special_tokens=special_tokens)
        if cut:
            yield text[:cut]
        pending = [text[cut:]]
        pending_chars = len(text) - cut
        wanted_chars = max(block_chars, 2 * pending_chars)
    if pending_chars:
        yield "".join(pending)


def last_safe_cut(text: str, *, pattern: str, special_tokens: tuple[str, ...] = ()) -> int:
    """Return the greatest index of `text` known to be a safe cut, whatever text follows; or 0."""
    plain_start, decided = 0, len(text)
    specials = compile_special_tokens(special_tokens)
    if specials is not None:
        # A special token that starts in the last `longest - 1` characters may only have begun,
        # or be the beginning of a longer one.
        longest = max(map(len, special_tokens))
        decided = max(0, len(text) - longest + 1)
        for match in specials.finditer(text):
            if match.start() >= decided:
                break
            plain_start = match.end()
    safe_cut = _LAST_SAFE_CUT.get(pattern)
    if safe_cut is not None and plain_start < decided:
        match = safe_cut.search(text, plain_start, min(decided + 1, len(text)))
        if match:
            return match.start()
    return plain_start


def safe_cuts(text: str, *, pattern: str, special_tokens: tuple[str, ...] = ()) -> Iterator[int]:
    """Yield safe cuts of `text`, which stands anywhere in a longer text, ascending.

    Not all of them: none nearer than `cut_margin` to either end, and none inside what may be a
    special token. For a custom pattern: where a special token ends that no other one can cross.
    """
    possible = _possible_special_tokens(text, special_tokens)
    inside = bytearray(len(text) + 1)
    for start, end in possible:
        inside[start + 1 : end] = b"\1" * (end - start - 1)
    margin = cut_margin(special_tokens)
    safe_cut = _SAFE_CUT.get(pattern)
    if safe_cut is not None:
        candidates = (match.start() for match in safe_cut.finditer(text, margin))
    else:
        # If nothing crosses its end either, it is the longest that starts there.
        candidates = iter(sorted(end for start, end in possible if not inside[start]))
    for cut in candidates:
        if cut > len(text) - margin:
            return
        if cut >= margin and not inside[cut]:
            yield cut


def cut_margin(special_tokens: tuple[str, ...]) -> int:
    """Return how many characters at either end of a text `safe_cuts` leaves alone.

    There a character may be cut in two, or a special token, or one that crosses the next.
    """
    return 2 * max(map(len, special_tokens), default=0) + 4


def _possible_special_tokens(text: str, special_tokens: tuple[str, ...]) -> list[tuple[int, int]]:
    """Return start and end of everything that may be a special token, overlapping or not."""
    return [
        (match.start(), match.end())
        for token in special_tokens
        for match in regex.finditer(regex.escape(token), text, overlapped=True)
    ]


def read_text(
    path: StrPath,
    *,
    start_byte: int = 0,
    stop_byte: int | None = None,
    block_bytes: int = 2**20,
) -> Iterator[str]:
    """Yield the text of a UTF-8 file block by block, as it stands: line ends and marks stay.

    `start_byte` and `stop_byte` choose a part of the file, by default all of it.

    Raises:
        ValueError: if the file is not UTF-8, naming the file and the offset in bytes, or
            `stop_byte` is before `start_byte`.
    """
    if stop_byte is not None and not 0 <= start_byte <= stop_byte:
        raise ValueError(
            "start_byte and stop_byte must be 0 <= start_byte <= stop_byte, "
            f"got {start_byte} and {stop_byte}"
        )
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset_bytes = start_byte
    with Path(path).open("rb") as file:
        file.seek(start_byte)
        while True:
            left_bytes = block_bytes if stop_byte is None else stop_byte - offset_bytes
            block = file.read(min(block_bytes, left_bytes))
            held_bytes = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                where = offset_bytes - held_bytes + error.start
                raise ValueError(
                    f"{fspath(path)} must be UTF-8, got byte 0x{error.object[error.start]:02x} "
                    f"at byte offset {where}: {error.reason}"
                ) from None
            if text:
                yield text
            if not block:
                return
            offset_bytes += len(block)


def _pieces(chunks: Iterable[str], piece_chars: int) -> Iterator[str]:
    for chunk in chunks:
        if not isinstance(chunk, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"text must come as strings, got {type(chunk).__name__}: {chunk!r}")
        for start in range(0, len(chunk), piece_chars):
            yield chunk[start : start + piece_chars]
