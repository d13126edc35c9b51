"""Training and encoding with scratch-bpe beside `tokenizers` and `tiktoken`, one thread each.

The corpus is the Python standard library's own sources, or the files named. Prints a JSON line for
each program and job, with the median of the rounds, and for ours the ratio of its speed to the
peer's. Ids are compared with tiktoken's before anything is timed.
"""

import argparse
import json
import os
import platform
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tiktoken
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import models, pre_tokenizers, trainers

from scratch.bpe import GPT2, Tokenizer, Vocabulary, train_bpe

Job = Callable[[], object]


def main() -> None:
    """Parse the flags and print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, nargs="*", help="UTF-8 text files")
    parser.add_argument("--megabytes", type=float, default=8.0)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    text = read_corpus(options.corpus, int(options.megabytes * 1e6))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.txt"
        path.write_text(text, encoding="utf-8", newline="")
        vocabulary = train_bpe(path, vocab_size=options.vocab_size, workers=1)
        tokenizer, peer = Tokenizer.from_vocabulary(vocabulary), as_tiktoken(vocabulary)
        if tokenizer.encode(text) != peer.encode_ordinary(text):
            raise SystemExit("ids differ from tiktoken's: nothing to compare")

        report(
            {"job": "train", "vocab_size": options.vocab_size, "megabytes": options.megabytes},
            ("tokenizers", lambda: train_hf(path, options.vocab_size)),
            ("scratch-bpe", lambda: train_bpe(path, vocab_size=options.vocab_size, workers=1)),
            options.rounds,
        )
        report(
            {"job": "encode, first pass", "megabytes": options.megabytes},
            ("tiktoken", lambda: peer.encode_ordinary(text)),
            ("scratch-bpe", lambda: Tokenizer.from_vocabulary(vocabulary).encode(text)),
            options.rounds,
        )


def report(
    facts: dict[str, object], peer: tuple[str, Job], ours: tuple[str, Job], rounds: int
) -> None:
    """Time two programs in turn and print a line for each."""
    seconds: dict[str, list[float]] = {peer[0]: [], ours[0]: []}
    for _ in range(rounds):
        for name, job in (peer, ours):
            begin = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        line = {**facts, "program": name, "version": version(name), "seconds": round(median, 3)}
        if name == ours[0]:
            ratios = [p / o for p, o in zip(seconds[peer[0]], seconds[name], strict=True)]
            line["speed_over_peer"] = round(statistics.median(ratios), 3)
        print(json.dumps({**line, "python": platform.python_version(), "rounds": rounds}))


def read_corpus(paths: list[Path] | None, size_bytes: int) -> str:
    """Return about `size_bytes` of the files, by default of the standard library's sources."""
    root = Path(sysconfig.get_path("stdlib"))
    found = paths or [p for p in sorted(root.rglob("*.py")) if "site-packages" not in p.parts]
    content = bytearray()
    for path in found:
        content += path.read_bytes()
        if len(content) >= size_bytes:
            break
    return bytes(content[:size_bytes]).decode("utf-8", errors="ignore")


def as_tiktoken(vocabulary: Vocabulary) -> tiktoken.Encoding:
    """Return tiktoken's encoding with the same ranks."""
    ranks = {token: token_id for token_id, token in vocabulary.tokens.items()}
    return tiktoken.Encoding("ours", pat_str=GPT2, mergeable_ranks=ranks, special_tokens={})


def train_hf(path: Path, vocab_size: int) -> None:
    """Train a byte-level BPE of the same size with `tokenizers` (which breaks ties otherwise)."""
    tokenizer = HFTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train([str(path)], trainer)


if __name__ == "__main__":
    main()
