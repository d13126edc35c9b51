r"""Where words begin, found for all bytes at once: the patterns of GPT-2 and GPT-4 as arrays.

GPT-2's pattern is *local*: whether a word begins at a character follows from the kinds of one
character before it and one after it, and from three letters around an apostrophe. Write L, N, O
for letters, numbers and all else that is no white space.

* A character of L, N or O begins a word where the kind changes, unless the one before it is a
  space (U+0020): ` ?\p{L}+` and its like take one space along, and never another kind of space.
* White space begins a word after anything else, and if it is the last before a non-space:
  `\s+(?!\S)` takes a run up to there, and gives back the last one, with which the next word or a
  one-character match of `\s+` begins. At the end of the text nothing is given back.
* `'s 't 'd 'm 'll 've 're` are words of their own if the apostrophe begins one, which by the first
  rule it does unless O or a space stands before it. The letter after it begins no word then, and
  what follows the contraction does.

A *barrier* is an end of text to what stands before it and a beginning to what stands after it.

CL100K differs in what goes along. Let a *line end* be CR or LF, and *tail* the part of a run of
white space after its last line end.

* L goes on from any one character that is neither line end nor N and begins a word itself; a space
  before it always does so, an O if neither O nor a space is before that.
* N begins a word at every third of its run.
* O takes all line ends that directly follow, so none of these begins a word.
* White space with a line end ahead in its run begins a word only at the start of what is left of
  the run: after a non-space, or after line ends that O took. In the tail: at its start, and
  at its last character before a non-space.

Each is compared with `regex` over all short texts of a nasty alphabet in the tests.
"""

from collections.abc import Callable

import numpy as np

from ._classes import (
    BARRIER,
    LETTER,
    LINE_END,
    NO_BARRIERS,
    NUMBER,
    OTHER,
    OTHER_SPACE,
    SPACE,
    Barriers,
    BoolArray,
    IntArray,
    KindArray,
    Kinds,
    classify,
)
from ._patterns import CL100K, GPT2

Scanner = Callable[[bytes, Barriers], IntArray]


def gpt2_starts(buffer: bytes, barriers: Barriers = NO_BARRIERS) -> IntArray:
    """Return where the words of GPT2 begin in UTF-8 text, in bytes; a barrier is a word, too."""
    kinds = classify(buffer, barriers)
    begins = _where_kinds_change(kinds)
    begins &= kinds.padded[:-5] != SPACE
    _part_spaces(begins, kinds)
    _part_contractions(begins, kinds.padded, buffer, any_case=False)
    return _with_barriers(begins, barriers)


def cl100k_starts(buffer: bytes, barriers: Barriers = NO_BARRIERS) -> IntArray:
    """Return where the words of CL100K begin in UTF-8 text, in bytes; a barrier is a word, too."""
    kinds = classify(buffer, barriers)
    begins = _where_kinds_change(kinds)
    begins &= (kinds.padded[:-5] != SPACE) | (kinds.padded[1:-4] == NUMBER)
    _part_spaces(begins, kinds)
    _join_letters(begins, kinds.padded, buffer)
    _part_numbers(begins, kinds.padded, buffer)
    _join_line_ends(begins, kinds.padded)
    _part_contractions(begins, kinds.padded, buffer, any_case=True)
    return _with_barriers(begins, barriers)


SCANNERS: dict[str, Scanner] = {GPT2: gpt2_starts, CL100K: cl100k_starts}
"""The patterns that have an array form."""


def _where_kinds_change(kinds: Kinds) -> BoolArray:
    return kinds.padded[1:-4] != kinds.padded[:-5]


def _part_spaces(begins: BoolArray, kinds: Kinds) -> None:
    """White space begins a word unless it is inside a run, or at the end of the last one."""
    padded = kinds.padded
    is_space = padded <= LINE_END
    inside = is_space[:-5] & (padded[2:-3] <= BARRIER)
    begins |= is_space[1:-4]
    begins &= ~(inside & is_space[1:-4])
    for starts, length in kinds.wide_spaces:
        begins[starts] = (padded[starts] > LINE_END) | (padded[starts + length + 1] > BARRIER)
        for offset in range(1, length):
            begins[starts + offset] = False


def _part_contractions(
    begins: BoolArray, padded: KindArray, buffer: bytes, *, any_case: bool
) -> None:
    text = np.frombuffer(buffer, np.uint8)
    quotes = np.flatnonzero(text == ord("'"))
    quotes = quotes[begins[quotes] & (padded[quotes + 2] == LETTER)]
    if not len(quotes):
        return
    first = text[quotes + 1]
    second = text[np.minimum(quotes + 2, len(text) - 1)]
    long_s = (first == 0xC5) & (second == 0xBF) & any_case  # U+017F folds to s
    if any_case:
        first, second = first | 0x20, second | 0x20
    one = (first == ord("s")) | (first == ord("d")) | (first == ord("m")) | (first == ord("t"))
    two = (first == ord("l")) & (second == ord("l"))
    two |= ((first == ord("v")) | (first == ord("r"))) & (second == ord("e"))
    two &= padded[quotes + 3] == LETTER
    two |= long_s
    begins[quotes[one | two] + 1] = False
    ends = np.concatenate([quotes[one] + 2, quotes[two] + 3])
    begins[ends[ends < len(begins)]] = True


def _join_letters(begins: BoolArray, padded: KindArray, buffer: bytes) -> None:
    """CL100K: letters take along the character before them, if it begins a word itself."""
    text = np.frombuffer(buffer, np.uint8)
    letters = np.flatnonzero(begins & (padded[1:-4] == LETTER))
    before = padded[letters]
    begins[letters[before == OTHER_SPACE]] = False
    letters = letters[before == OTHER]
    previous = letters - 1
    for _ in range(3):
        previous -= (text[previous] & 0xC0) == 0x80
    begins[letters[begins[previous]]] = False


def _part_numbers(begins: BoolArray, padded: KindArray, buffer: bytes) -> None:
    """CL100K: three numbers at most, counted in characters from the start of their run."""
    text = np.frombuffer(buffer, np.uint8)
    numbers = np.flatnonzero((padded[1:-4] == NUMBER) & ((text & 0xC0) != 0x80))
    if not len(numbers):
        return
    is_first = begins[numbers]
    firsts = np.flatnonzero(is_first)
    place = np.arange(len(numbers)) - firsts[np.cumsum(is_first) - 1]
    begins[numbers] = place % 3 == 0


def _join_line_ends(begins: BoolArray, padded: KindArray) -> None:
    """CL100K: a run of white space is one word up to its last line end, less what O took."""
    line_ends = np.flatnonzero(padded[1:-4] == LINE_END)
    if not len(line_ends):
        return
    before = padded[line_ends]
    begins[line_ends] = (before > LINE_END) & (before != OTHER)

    # White space after a line end: at the start of the tail, or behind line ends that O took.
    spaces = line_ends + 1
    spaces = spaces[(padded[spaces + 1] < LINE_END)]
    if not len(spaces):
        return
    is_space = padded <= LINE_END
    run_ends = np.flatnonzero(is_space[1:-4] & ~is_space[2:-3]) + 1
    run_end = run_ends[np.searchsorted(run_ends, spaces, side="right")]
    last = np.searchsorted(line_ends, spaces) - 1  # the line end directly before
    following = np.append(line_ends, len(begins))[last + 1]
    in_tail = following >= run_end
    blocks = line_ends[np.flatnonzero(np.diff(line_ends, prepend=-2) != 1)]
    block = blocks[np.searchsorted(blocks, spaces) - 1]
    begins[spaces] |= in_tail | (padded[block] == OTHER)


def _with_barriers(begins: BoolArray, barriers: Barriers) -> IntArray:
    if len(begins):
        begins[0] = True
    if len(barriers.starts):
        begins[barriers.indices()] = False
        begins[barriers.starts] = True
        ends = barriers.starts + barriers.lengths
        begins[ends[ends < len(begins)]] = True
    return np.flatnonzero(begins)
