"""A small corpus of several scripts, what is learnt from it, and a trainer slow enough to trust."""

import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

from scratch.bpe import Vocabulary, train_bpe_from_iterator

EOT = "<|endoftext|>"

Merges = list[tuple[bytes, bytes]]

SENTENCES = (
    "The old miller's daughter couldn't sleep, so she'd counted {n} geese by {m} o'clock.",
    "If it rains we'll stay; if it doesn't, they'll leave at {n}:{m}!\n",
    "def area_{n}(width, height):\n    return width * height  # not {m}\n\n",
    "\tif (index{n} != 0x{m}) { ++counter; }\r\n\r\n",
    "Gr\u00fc\u00dfe aus K\u00f6ln, {n} Br\u00f6tchen \u00e0 {m} \u20ac.  ",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440: {n} \u0438 {m}\u2026\n",
    "\u4eca\u65e5\u306f\u3044\u3044\u5929\u6c17\u3067\u3059\u3002\u3000{n}\u5ea6\u3001{m}\u4eba\u3002\n",
    "camelCaseNames and HTTPServer{n} SHOUT \U0001f600\U0001f680 / {m} ///\n",
)


@pytest.fixture(scope="session")
def corpus() -> str:
    rng = random.Random(0)
    documents = [
        " ".join(
            sentence.replace("{n}", str(rng.randrange(10_000))).replace(
                "{m}", str(rng.randrange(60))
            )
            for sentence in rng.choices(SENTENCES, k=12)
        )
        for _ in range(60)
    ]
    return EOT.join(documents)


@pytest.fixture(scope="session")
def vocabulary(corpus: str) -> Vocabulary:
    return train_bpe_from_iterator([corpus], vocab_size=900, special_tokens=[EOT])


@pytest.fixture(scope="session")
def recount_every_time() -> Callable[[dict[bytes, int], int], Merges]:
    return trainer_that_recounts


def trainer_that_recounts(word_counts: dict[bytes, int], max_merges: int) -> Merges:
    """The definition: tokens are byte strings, the greatest (count, pair) is joined."""
    words = [([bytes([byte]) for byte in word], count) for word, count in word_counts.items()]
    merges: Merges = []
    while len(merges) < max_merges:
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, count in words:
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        left, right = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append((left, right))
        for word, _ in words:
            position = 0
            while position < len(word) - 1:
                if word[position] == left and word[position + 1] == right:
                    word[position : position + 2] = [left + right]
                position += 1
    return merges
