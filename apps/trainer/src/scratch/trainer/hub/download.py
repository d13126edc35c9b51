"""Download a public data set, and tell how to prepare it."""

import json
import shlex
from pathlib import Path

from ..commands import DownloadSettings
from ..watching.display import say
from .datasets import DATASETS, HUB, Dataset
from .fetching import fetch


def download(settings: DownloadSettings, *, hub: str = HUB) -> tuple[Path, Path]:
    """Fetch what is missing of a data set; return its training file and its held-out file.

    Raises:
        DamagedError: if a file comes, or is there, with another size or checksum.
        OSError: if a file cannot be fetched or written; the next call goes on where this one was.
    """
    dataset = DATASETS[settings.name]
    return _fetch_all(dataset, settings.out, hub)


def print_download(settings: DownloadSettings, *, hub: str = HUB) -> None:
    """Download, and print the command that comes next."""
    train, validation = download(settings, hub=hub)
    vocab_size = DATASETS[settings.name].vocab_size
    command = [
        *("trainer", "prepare", str(train), "--validation", str(validation)),
        *("--vocab-size", str(vocab_size), "--out", str(Path("data") / settings.name)),
    ]
    if settings.json_output:
        answer = {
            "train": str(train),
            "validation": str(validation),
            "vocab_size": vocab_size,
            "next": command,
        }
        print(json.dumps(answer))
    else:
        print(shlex.join(command))


def _fetch_all(dataset: Dataset, out: Path, hub: str) -> tuple[Path, Path]:
    paths: list[Path] = []
    for file in (dataset.validation, dataset.train):  # the small one first
        path = out / file.name
        size = f"{file.num_bytes / 1e6:,.0f} MB"
        say(f"{path}: checking {size}" if path.exists() else f"{path}: fetching {size}")
        fetch(dataset.address(file, hub=hub), path, num_bytes=file.num_bytes, sha256=file.sha256)
        say(f"{path}: complete, and its checksum is right")
        paths.append(path)
    return paths[1], paths[0]
