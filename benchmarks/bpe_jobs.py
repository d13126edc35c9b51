"""One job of one program, in a process of its own: prints what it measured as a line of JSON.

`python bpe_jobs.py JOB PROGRAM CORPUS VOCABULARY` runs on one core. The vocabulary is a file of
scratch-bpe; tiktoken gets the same ranks, tokenizers the same merges.
"""

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

END_OF_TEXT = "<|endoftext|>"
TRAIN_VOCAB_SIZE = 32_000

Facts = dict[str, Any]


def main() -> None:
    """Run the job that the arguments name."""
    job, program, corpus, vocabulary = sys.argv[1:5]
    facts = JOBS[job](program, Path(corpus), Path(vocabulary))
    print(json.dumps({"version": version(program), **facts, "peak_mb": peak_megabytes()}))


def peak_megabytes() -> float | None:
    """Return the greatest resident memory this process has had; None where nobody tells."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return round(int(line.split()[1]) / 1024, 1)
    except OSError:
        pass
    return None


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def documents(corpus: Path) -> list[str]:
    """Return the texts between the ends of text."""
    return corpus.read_bytes().decode().split(END_OF_TEXT)


def train(program: str, corpus: Path, vocabulary: Path) -> Facts:  # noqa: ARG001
    """Train 32,000 tokens. Ours reads the file; the peers' texts are read before the clock runs."""
    from scratch.bpe import GPT2, train_bpe

    if program == "scratch-bpe":
        options = {"vocab_size": TRAIN_VOCAB_SIZE, "special_tokens": [END_OF_TEXT], "workers": 1}
        return {"seconds": seconds(lambda: train_bpe(corpus, **options))}
    texts = documents(corpus)
    if program == "rustbpe":
        import rustbpe

        peer = rustbpe.Tokenizer()
        options = {"vocab_size": TRAIN_VOCAB_SIZE, "pattern": GPT2}
        return {"seconds": seconds(lambda: peer.train_from_iterator(iter(texts), **options))}
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=TRAIN_VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return {"seconds": seconds(lambda: tokenizer.train_from_iterator(iter(texts), trainer))}


def encode(program: str, corpus: Path, vocabulary: Path) -> Facts:
    """Encode the corpus to `uint16`: once with nothing remembered, and then once more."""
    import numpy as np

    texts = documents(corpus)
    if program == "scratch-bpe":
        ours = load_ours(vocabulary)
        text = corpus.read_bytes().decode()
        ids: list[Any] = []
        cold = seconds(lambda: ids.append(ours.encode_to_numpy(text)))
        warm = seconds(lambda: ours.encode_to_numpy(text))
        end = ours.special_tokens[END_OF_TEXT]
        digest = hashlib.sha256(ids[0][ids[0] != end].tobytes()).hexdigest()
        return {"seconds": cold, "warm_seconds": warm, "ids_sha256": digest}
    if program == "tokenizers":
        peer = load_tokenizers(vocabulary)
        some = texts[: max(1, len(texts) // 8)]
        part = sum(len(text.encode()) for text in some)
        taken = seconds(lambda: [np.array(peer.encode(text).ids, np.uint16) for text in some])
        return {"seconds": taken * corpus.stat().st_size / part, "of_the_corpus": 1 / 8}
    theirs = load_tiktoken(vocabulary)
    as_lists = seconds(lambda: [np.array(theirs.encode_ordinary(t), np.uint16) for t in texts])
    as_arrays = seconds(
        lambda: [theirs.encode_to_numpy(t, disallowed_special=()).astype(np.uint16) for t in texts]
    )
    encoded = np.concatenate([np.array(theirs.encode_ordinary(t), np.uint16) for t in texts])
    return {
        "seconds": min(as_lists, as_arrays),
        "ids_sha256": hashlib.sha256(encoded.tobytes()).hexdigest(),
    }


def short(program: str, corpus: Path, vocabulary: Path) -> Facts:
    """Encode a megabyte in strings of 100 and of 1000 characters: one by one, twice; as a batch."""
    text = corpus.read_bytes().decode().replace(END_OF_TEXT, "")[:1_000_000]
    facts: Facts = {}
    for size in (100, 1000):
        texts = [text[start : start + size] for start in range(0, len(text), size)]
        facts |= {f"{name}_{size}": value for name, value in _short(program, vocabulary, texts)}
    return facts


def _short(program: str, vocabulary: Path, texts: list[str]) -> Iterator[tuple[str, Any]]:
    tokenizer = load(program, vocabulary)

    def one_by_one() -> list[list[int]]:
        return [tokenizer.encode_ordinary(text) for text in texts]

    def as_batch() -> list[list[int]]:
        if program == "scratch-bpe":
            return tokenizer.encode_batch(texts)
        return tokenizer.encode_ordinary_batch(texts, num_threads=1)

    yield "first", seconds(one_by_one)
    yield "second", seconds(one_by_one)
    as_batch()
    batch_seconds = seconds(as_batch)
    # The peer's batch is a pool of threads: without one it may be faster.
    yield (
        "batch",
        batch_seconds if program == "scratch-bpe" else min(batch_seconds, seconds(one_by_one)),
    )
    assert as_batch() == one_by_one()
    yield "ids", hashlib.sha256(str(one_by_one()).encode()).hexdigest()


def decode(program: str, corpus: Path, vocabulary: Path) -> Facts:
    """Decode 200,000 ids: from a list, and, where it can, from an array."""
    text = corpus.read_bytes().decode().replace(END_OF_TEXT, "")[:2_000_000]
    ours = load_ours(vocabulary)
    array = ours.encode_to_numpy(text)[:200_000]
    ids = array.tolist()
    tokenizer = load(program, vocabulary)
    tokenizer.decode(ids[:1000])
    facts: Facts = {"list_seconds": min(seconds(lambda: tokenizer.decode(ids)) for _ in range(5))}
    if program == "scratch-bpe":
        facts["array_seconds"] = min(seconds(lambda: tokenizer.decode(array)) for _ in range(5))
        assert tokenizer.decode(array) == tokenizer.decode(ids)
    return facts


def start(program: str, corpus: Path, vocabulary: Path) -> Facts:  # noqa: ARG001
    """Import the package, and load a vocabulary of GPT-2's size."""
    if program == "scratch-bpe":
        imported = seconds(lambda: __import__("scratch.bpe"))
        return {"import_seconds": imported, "load_seconds": seconds(lambda: load_ours(vocabulary))}
    from scratch.bpe import Tokenizer

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        Tokenizer.load(vocabulary).to_huggingface(path)
        imported = seconds(lambda: __import__("tokenizers"))
        from tokenizers import Tokenizer as Peer

        loaded = seconds(lambda: Peer.from_file(str(path)))
    return {"import_seconds": imported, "load_seconds": loaded}


def to_file(program: str, corpus: Path, vocabulary: Path) -> Facts:
    """Encode the corpus from file to file, in one process."""
    ours = load(program, vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "ids"
        return {"seconds": seconds(lambda: ours.encode_files(corpus, out, workers=1))}


def workers(program: str, corpus: Path, vocabulary: Path) -> Facts:
    """Encode the corpus from file to file with one worker, and with two."""
    ours, facts, shard_bytes = load(program, vocabulary), {}, corpus.stat().st_size // 8
    with tempfile.TemporaryDirectory() as folder:
        for number in (1, 2):
            out = Path(folder) / str(number)
            begin = time.perf_counter()
            ours.encode_files(corpus, out, workers=number, shard_bytes=shard_bytes)
            facts[f"seconds_{number}"] = time.perf_counter() - begin
    return facts


def load(program: str, vocabulary: Path) -> Any:
    """Return a fresh tokenizer of a program."""
    return load_ours(vocabulary) if program == "scratch-bpe" else load_tiktoken(vocabulary)


def load_ours(vocabulary: Path) -> Any:
    from scratch.bpe import Tokenizer

    return Tokenizer.load(vocabulary)


def load_tiktoken(vocabulary: Path) -> Any:
    import tiktoken

    from scratch.bpe import Vocabulary

    loaded = Vocabulary.load(vocabulary)
    specials = {token.encode() for token in loaded.special_tokens}
    ranks = {token: rank for rank, token in loaded.tokens.items() if token not in specials}
    special = {token.decode(): i for i, token in loaded.tokens.items() if token in specials}
    return tiktoken.Encoding(
        "same", pat_str=loaded.pattern, mergeable_ranks=ranks, special_tokens=special
    )


def load_tokenizers(vocabulary: Path) -> Any:
    from tokenizers import Tokenizer as Peer

    from scratch.bpe import Tokenizer

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        Tokenizer.load(vocabulary).to_huggingface(path)
        return Peer.from_file(str(path))


# Each takes a program, a corpus and a vocabulary, whether it needs them or not.
JOBS: dict[str, Callable[[str, Path, Path], Facts]] = {
    "train": train,
    "encode": encode,
    "short": short,
    "decode": decode,
    "start": start,
    "to-file": to_file,
    "workers": workers,
}


if __name__ == "__main__":
    main()
