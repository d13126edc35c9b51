"""`trainer download`: a data set on the disk, and the command that comes next."""

import hashlib
import json
import shlex
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import pytest

from scratch.trainer.cli import parse
from scratch.trainer.commands import DatasetName, DownloadSettings, PrepareSettings
from scratch.trainer.hub import download as module
from scratch.trainer.hub.datasets import DATASETS, HUB, Dataset, RemoteFile
from scratch.trainer.hub.download import download, print_download
from scratch.trainer.hub.partial_file import DamagedError

TEXTS = {"train": b"Once upon a time there was a cat.", "validation": b"Once there was a dog."}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reach the server here even where a proxy is set for the rest of the world."""
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve small files where those of TinyStories are; return the address of the hub."""
    dataset = DATASETS["tinystories"]
    folder = tmp_path / "hub" / "datasets" / dataset.repository / "resolve" / "main"
    folder.mkdir(parents=True)
    small: dict[str, RemoteFile] = {}
    for split, text in TEXTS.items():
        name = getattr(dataset, split).name
        (folder / name).write_bytes(text)
        small[split] = RemoteFile(name, len(text), hashlib.sha256(text).hexdigest())
    monkeypatch.setattr(module, "DATASETS", {"tinystories": replace(dataset, **small)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "hub"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def settings(tmp_path: Path, **changes: Any) -> DownloadSettings:
    return DownloadSettings(name="tinystories", out=tmp_path / "raw data", **changes)


def test_both_files_come_and_are_not_fetched_twice(hub: str, tmp_path: Path) -> None:
    train, validation = download(settings(tmp_path), hub=hub)
    assert train.read_bytes() == TEXTS["train"]
    assert validation.read_bytes() == TEXTS["validation"]
    assert train.parent == tmp_path / "raw data"
    assert download(settings(tmp_path), hub="http://nowhere.invalid") == (train, validation)


def test_the_next_command_is_printed_and_understood(
    hub: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_download(settings(tmp_path), hub=hub)
    shown = capsys.readouterr()
    trainer, *arguments = shlex.split(shown.out)
    assert trainer == "trainer"
    raw = tmp_path / "raw data"
    assert parse(arguments) == PrepareSettings(
        files=(raw / "TinyStoriesV2-GPT4-train.txt",),
        validation=(raw / "TinyStoriesV2-GPT4-valid.txt",),
        out=Path("data/tinystories"),
        vocab_size=10_000,
    )
    assert "complete" in shown.err


def test_json_tells_a_program_the_same(
    hub: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_download(settings(tmp_path), hub=hub)
    command = shlex.split(capsys.readouterr().out)
    print_download(settings(tmp_path, json_output=True), hub=hub)
    answer = json.loads(capsys.readouterr().out)
    assert answer["next"] == command
    assert Path(answer["train"]).read_bytes() == TEXTS["train"]
    assert Path(answer["validation"]).read_bytes() == TEXTS["validation"]
    assert answer["vocab_size"] == 10_000


def test_a_damaged_file_is_refused(hub: str, tmp_path: Path) -> None:
    served = next((tmp_path / "hub").rglob("*-valid.txt"))
    served.write_bytes(TEXTS["validation"][:-1] + b"?")
    with pytest.raises(DamagedError, match="must have sha256"):
        download(settings(tmp_path), hub=hub)
    assert list((tmp_path / "raw data").iterdir()) == []


def test_every_name_has_its_data() -> None:
    assert set(DATASETS) == set(get_args(DatasetName))


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=lambda dataset: dataset.repository)
def test_addresses_and_checksums_have_the_right_form(dataset: Dataset) -> None:
    for file in dataset.train, dataset.validation:
        address = dataset.address(file)
        assert address == f"{HUB}/datasets/{dataset.repository}/resolve/main/{file.name}"
        assert len(bytes.fromhex(file.sha256)) == 32
    assert dataset.train.num_bytes > 10 * dataset.validation.num_bytes > 0
