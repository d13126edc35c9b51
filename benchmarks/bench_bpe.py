"""scratch-bpe beside `rustbpe`, `tokenizers` and `tiktoken`: training, encoding, decoding.

Every measurement is a process of its own on one core, program after program and then all of them
again, so that what disturbs one disturbs the others. Prints a JSON line for each job, program and
corpus, with the median over the rounds, then a table of the ratios. Ids are compared before times.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bpe_corpora import END_OF_TEXT, generated_languages, stdlib_sources
from bpe_jobs import Facts

from scratch.bpe import Tokenizer, train_bpe

JOBS = {
    "train": ("scratch-bpe", "rustbpe", "tokenizers"),
    "encode": ("scratch-bpe", "tiktoken", "tokenizers"),
    "short": ("scratch-bpe", "tiktoken"),
    "decode": ("scratch-bpe", "tiktoken"),
    "to-file": ("scratch-bpe",),
    "workers": ("scratch-bpe",),
    "start": ("scratch-bpe", "tokenizers"),
}
GPT2_VOCAB_SIZE = 50_257

# What is set against what: name, job, our figure, the peer, its figure.
RATIOS = [
    ("train 32k, rustbpe", "train", "seconds", "rustbpe", "seconds"),
    ("train 32k, tokenizers", "train", "seconds", "tokenizers", "seconds"),
    ("training memory, rustbpe", "train", "peak_mb", "rustbpe", "peak_mb"),
    ("training memory, tokenizers", "train", "peak_mb", "tokenizers", "peak_mb"),
    ("corpus to uint16, cold, tiktoken", "encode", "seconds", "tiktoken", "seconds"),
    ("corpus to uint16, warm, tiktoken", "encode", "warm_seconds", "tiktoken", "seconds"),
    ("corpus to uint16, cold, tokenizers", "encode", "seconds", "tokenizers", "seconds"),
    ("2 workers against 1", "workers", "seconds_2", "scratch-bpe", "seconds_1"),
    ("100 characters, first pass, tiktoken", "short", "first_100", "tiktoken", "second_100"),
    ("100 characters, second pass, tiktoken", "short", "second_100", "tiktoken", "second_100"),
    ("1000 characters, first pass, tiktoken", "short", "first_1000", "tiktoken", "second_1000"),
    ("1000 characters, second pass, tiktoken", "short", "second_1000", "tiktoken", "second_1000"),
    ("batch of 100 characters, tiktoken", "short", "batch_100", "tiktoken", "batch_100"),
    ("batch of 1000 characters, tiktoken", "short", "batch_1000", "tiktoken", "batch_1000"),
    ("decode a list, tiktoken", "decode", "list_seconds", "tiktoken", "list_seconds"),
    ("decode an array, tiktoken's list", "decode", "array_seconds", "tiktoken", "list_seconds"),
    ("import, tokenizers", "start", "import_seconds", "tokenizers", "import_seconds"),
    ("load 50k tokens, tokenizers", "start", "load_seconds", "tokenizers", "load_seconds"),
]


def main() -> None:
    """Parse the flags, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, nargs="*", default=[], help="UTF-8 text files")
    parser.add_argument("--megabytes", type=float, default=24.0, help="of each default corpus")
    parser.add_argument("--jobs", nargs="*", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--gpt2", type=Path, nargs=2, metavar=("VOCAB", "MERGES"),
        help="encode with GPT-2's files, and not with 50,257 tokens learnt from the corpus",
    )  # fmt: skip
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        corpora = options.corpus or default_corpora(Path(folder), int(options.megabytes * 1e6))
        rows: dict[str, dict[str, str]] = {}
        for corpus in corpora:
            vocabulary = Path(folder) / f"{corpus.stem}.json"
            make_vocabulary(corpus, options.gpt2).save(vocabulary)
            medians = measure(corpus, vocabulary, options.jobs, options.rounds)
            rows[corpus.stem] = ratios(medians)
        print_table(rows)


def default_corpora(folder: Path, size_bytes: int) -> list[Path]:
    """Write the corpora that need no file."""
    made = {"stdlib": stdlib_sources(size_bytes), "generated": generated_languages(size_bytes)}
    for name, content in made.items():
        (folder / f"{name}.txt").write_bytes(content)
    return [folder / f"{name}.txt" for name in made]


def make_vocabulary(corpus: Path, gpt2: list[Path] | None) -> Tokenizer:
    """Return the tokenizer to encode with."""
    if gpt2:
        return Tokenizer.from_files(*gpt2, special_tokens=[END_OF_TEXT])
    return Tokenizer.from_vocabulary(
        train_bpe(corpus, vocab_size=GPT2_VOCAB_SIZE, special_tokens=[END_OF_TEXT])
    )


def measure(
    corpus: Path, vocabulary: Path, jobs: list[str], rounds: int
) -> dict[tuple[str, str], Facts]:
    """Return the medians of each job and program, and print them."""
    medians: dict[tuple[str, str], Facts] = {}
    for job in jobs:
        results: dict[str, list[Facts]] = {program: [] for program in JOBS[job]}
        for _ in range(rounds):
            for program in results:
                results[program].append(run(job, program, corpus, vocabulary))
        compare_ids(job, results)
        for program, measured in results.items():
            median = {name: _median([each[name] for each in measured]) for name in measured[0]}
            medians[job, program] = median
            megabytes = round(corpus.stat().st_size / 1e6, 2)
            facts = {"job": job, "program": program, "corpus": corpus.stem, "megabytes": megabytes}
            about = {"python": platform.python_version(), "rounds": rounds}
            print(json.dumps({**facts, **median, **about}), flush=True)
    return medians


def run(job: str, program: str, corpus: Path, vocabulary: Path) -> Facts:
    """Run one job in a process of its own, on one core unless it is about several."""
    script = Path(__file__).with_name("bpe_jobs.py")
    command = [sys.executable, str(script), job, program, str(corpus), str(vocabulary)]
    pinned = hasattr(os, "sched_setaffinity") and job != "workers"
    if pinned:
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(cores)})
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    finally:
        if pinned:
            os.sched_setaffinity(0, cores)
    return json.loads(done.stdout)


def compare_ids(job: str, results: dict[str, list[Facts]]) -> None:
    """Stop if two programs gave different ids."""
    for name in ("ids_sha256", "ids_100", "ids_1000"):
        found = {each[name] for measured in results.values() for each in measured if name in each}
        if len(found) > 1:
            raise SystemExit(
                f"{job}: the programs disagree on the ids, so there is nothing to compare"
            )


def ratios(medians: dict[tuple[str, str], Facts]) -> dict[str, str]:
    """Return each ratio as text: speeds as ours over the peer's, memory as ours over the peer's."""
    result: dict[str, str] = {}
    for name, job, ours, peer, theirs in RATIOS:
        if (job, "scratch-bpe") not in medians:
            continue
        mine, other = medians[job, "scratch-bpe"][ours], medians[job, peer][theirs]
        if mine is None or other is None:
            continue
        result[name] = f"{mine / other if ours == 'peak_mb' else other / mine:.2f}x"
    for job, program in medians:
        if (job, program) == ("to-file", "scratch-bpe"):
            result["file to file, peak MB"] = f"{medians[job, program]['peak_mb']}"
        if (job, program) == ("start", "scratch-bpe"):
            facts = medians[job, program]
            result["import, seconds"] = f"{facts['import_seconds']:.3f}"
            result["load 50k tokens, seconds"] = f"{facts['load_seconds']:.3f}"
    return result


def print_table(rows: dict[str, dict[str, str]]) -> None:
    """Print the ratios as a Markdown table, one column a corpus."""
    names = list(dict.fromkeys(name for column in rows.values() for name in column))
    print("\n| ours against | " + " | ".join(rows) + " |")
    print("|---" * (len(rows) + 1) + "|")
    for name in names:
        print(f"| {name} | " + " | ".join(column.get(name, "") for column in rows.values()) + " |")


def _median(values: list[Any]) -> Any:
    if all(isinstance(value, (int, float)) for value in values):
        return round(statistics.median(values), 5)
    return values[0]


if __name__ == "__main__":
    main()
