"""How often each word occurs: all that training needs to know of a corpus.

Memory grows with the number of distinct words, not with the corpus. Blocks of text are counted
one by one, in this process or spread over several, and the order of adding does not matter.
"""

from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor

from ._patterns import compile_pattern
from ._pretokenize import compile_special_tokens, find_words, split_special_tokens


def count_words(
    blocks: Iterable[str], *, pattern: str, special_tokens: tuple[str, ...] = (), workers: int = 1
) -> Counter[bytes]:
    """Return the count of each word, as UTF-8 bytes, over blocks that end at safe cuts.

    One worker counts in the calling process. More are a process pool that lives for this call;
    at most two blocks a worker are under way at any time.
    """
    total: Counter[str] = Counter()
    if workers == 1:
        for block in blocks:
            total.update(count_block(block, pattern, special_tokens))
    else:
        with ProcessPoolExecutor(workers) as pool:
            under_way: deque[Future[Counter[str]]] = deque()
            for block in blocks:
                under_way.append(pool.submit(count_block, block, pattern, special_tokens))
                if len(under_way) == 2 * workers:
                    total.update(under_way.popleft().result())
            for future in under_way:
                total.update(future.result())
    return Counter({word.encode(): count for word, count in total.items()})


def count_block(text: str, pattern: str, special_tokens: tuple[str, ...]) -> Counter[str]:
    """Return the count of each word of one text. Special tokens part the text and do not count."""
    words: Counter[str] = Counter()
    compiled = compile_pattern(pattern)
    for ordinary, _ in split_special_tokens(text, compile_special_tokens(special_tokens)):
        words.update(find_words(ordinary, compiled))
    return words
