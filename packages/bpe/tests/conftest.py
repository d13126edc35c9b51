"""A small corpus of several scripts, made here, and the vocabulary learnt from it."""

import random

import pytest

from scratch.bpe import Vocabulary, train_bpe_from_iterator

EOT = "<|endoftext|>"

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
