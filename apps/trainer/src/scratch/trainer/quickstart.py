"""The quickstart: from the sources of Python's standard library to a model that writes Python.

Everything goes through the same doors as a user's own text: files, `prepare`, `train`, score,
sample.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scratch.train import atomic_write

from .commands import EvaluateSettings, PrepareSettings, QuickstartSettings
from .config import ModelSettings, OptimizerSettings, TrainSettings
from .data.corpus import END_OF_TEXT
from .data.prepare import prepare
from .data.stdlib_corpus import stdlib_sources
from .device import choose_device
from .runs.run import RunDirectory
from .training.train import train
from .using.sample import continue_text
from .using.score import score
from .watching.display import say

# No space at their ends: a space belongs to the token of the word after it.
_PROMPTS = ("import", "class", "    def __init__(self")
_SAMPLE_TOKENS = 96


def quickstart(
    settings: QuickstartSettings, *, stdlib: Path | None = None
) -> dict[str, Any] | None:
    """Make a corpus, a tokenizer, a model; compare it with compressors; show what it writes.

    Each part is taken up where it was left, if it was interrupted. `stdlib` is the directory of
    the sources, by default that of the running interpreter.

    Returns:
        What `summary.json` holds, or None if the training was stopped before its end.

    Raises:
        ValueError: if the directory holds another run or another quickstart.
    """
    choose_device(settings.device)  # a device that is not there is told before the work begins
    out = settings.out
    summary_path = out / "summary.json"
    if (out / "config.toml").exists() and not (out / "corpus").exists():
        raise ValueError(f"{out} holds a run that is no quickstart; choose another --out")
    train_files, held_out_files = stdlib_sources(stdlib)
    _write_corpus(out / "corpus" / "train.txt", train_files)
    _write_corpus(out / "corpus" / "held-out.txt", held_out_files)
    held_out = b"".join(held_out_files)
    say(
        f"corpus: {len(train_files)} files of the standard library, "
        f"{len(held_out_files)} more held out ({len(held_out):,} bytes)"
    )
    prepare(
        PrepareSettings(
            files=(out / "corpus" / "train.txt",),
            validation=(out / "corpus" / "held-out.txt",),
            out=out / "data",
            vocab_size=settings.vocab_size,
        )
    )
    run = train(
        TrainSettings(
            data=out / "data",
            out=out,
            resume=True,
            train_seconds=settings.train_seconds,
            batch_size=16,
            seed=settings.seed,
            device=settings.device,
            checkpoint_every=100,
            keep_checkpoints=1,
            evaluate_every=10**9,
            precision="auto",
            model=ModelSettings(
                context_length=128, d_model=192, num_layers=4, num_heads=6, start="identity"
            ),
            optimizer=OptimizerSettings(
                kind="muon", lr=0.04, muon_lr=0.02, schedule="linear", floor_fraction=0.0
            ),
        ),
        resume_command=shlex.join(["trainer", "quickstart", *_flags(settings)]),
    )
    if not run.is_finished():
        return None
    say("scoring every byte of the held-out files")
    result = score(EvaluateSettings(run=out, device=settings.device))
    last_update = [record for record in run.journal.read() if "loss" in record][-1]
    summary = {
        "bits_per_byte": {
            "model": result.bits_per_byte,
            "gzip": result.gzip_bits_per_byte,
            "xz": result.xz_bits_per_byte,
        },
        "train_seconds": last_update["seconds"],
        "steps": last_update["step"],
        "tokens": last_update["tokens"],
        "held_out_bytes": len(held_out),
        "samples": _samples(run, settings),
    }
    with atomic_write(summary_path) as file:
        file.write(json.dumps(summary, indent=2).encode())
    _show(summary, out)
    return summary


def _flags(settings: QuickstartSettings) -> list[str]:
    """Return the flags that differ from the defaults."""
    defaults = QuickstartSettings().model_dump()
    changed = {k: v for k, v in settings.model_dump().items() if v != defaults[k]}
    return [text for k, v in changed.items() for text in (f"--{k.replace('_', '-')}", str(v))]


def _write_corpus(path: Path, files: Sequence[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(END_OF_TEXT.encode().join(files))


def _samples(run: RunDirectory, settings: QuickstartSettings) -> list[str]:
    model = run.load_model(choose_device(settings.device))
    tokenizer = run.tokenizer()
    return [
        prompt
        + "".join(
            continue_text(
                model,
                tokenizer,
                prompt,
                max_new_tokens=_SAMPLE_TOKENS,
                temperature=0.7,
                top_k=None,
                top_p=0.95,
                seed=settings.seed + number,
            )
        )
        for number, prompt in enumerate(_PROMPTS)
    ]


def _show(summary: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.rule import Rule
    from rich.table import Table

    bits = summary["bits_per_byte"]
    table = Table(title="The held-out files, compressed")
    table.add_column("")
    table.add_column("bits per byte (less is better)", justify="right")
    table.add_row(f"this model, after {summary['train_seconds']:.0f} s", f"{bits['model']:.3f}")
    table.add_row("xz -9", f"{bits['xz']:.3f}")
    table.add_row("gzip -9", f"{bits['gzip']:.3f}")
    console = Console(highlight=False)
    console.print(table)
    for number, sample in enumerate(summary["samples"], start=1):
        console.print(Rule(f"sample {number}", align="left"))
        console.print(sample, markup=False, soft_wrap=True)
    console.print(Rule("what to try next", align="left"))
    for command in (
        f"trainer generate {out} --prompt 'for name in' --seed 1",
        f"trainer evaluate {out} YOUR_FILE.py",
        "trainer prepare YOUR_TEXT.txt --out data/mine --vocab-size 4096",
        "trainer train --data data/mine --out runs/mine --steps 1000",
    ):
        console.print(f"  uv run {command}", markup=False, soft_wrap=True)
