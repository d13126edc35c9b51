"""How often each word occurs, the plain form: all that training needs to know of a corpus.

Memory grows with the number of distinct words, not with the corpus.
"""

from collections import Counter
from collections.abc import Iterable

from ._patterns import compile_pattern
from ._pretokenize import compile_special_tokens, find_words, split_special_tokens


def count_words(
    blocks: Iterable[str], *, pattern: str, special_tokens: tuple[str, ...] = ()
) -> Counter[bytes]:
    """Return the count of each word, as UTF-8 bytes, over blocks that end at safe cuts.

    Special tokens part the text and do not count.
    """
    words: Counter[str] = Counter()
    compiled, specials = compile_pattern(pattern), compile_special_tokens(special_tokens)
    for block in blocks:
        for ordinary, _ in split_special_tokens(block, specials):
            words.update(find_words(ordinary, compiled))
    return Counter({word.encode(): count for word, count in words.items()})
