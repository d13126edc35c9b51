"""Fetching: the right file or none, through whatever a network and a server do."""

import errno
import hashlib
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scratch.trainer.hub.fetching import fetch
from scratch.trainer.hub.partial_file import DamagedError

CONTENT = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Hub:
    """A server with one file, and what goes wrong with it."""

    address: str = ""
    content: bytes = CONTENT
    etag: str | None = '"one"'
    linked_sha256: str | None = None
    takes_ranges: bool = True
    always_partial: bool = False
    """Whether it calls even the whole file a part."""
    heeds_if_range: bool = True
    tells_size: bool = True
    cuts: deque[int | None] = field(default_factory=deque[int | None])
    """After how many bytes the connection breaks, for each answer; then never."""
    always_cut: int | None = None
    statuses: deque[int] = field(default_factory=deque[int])
    """What it answers instead, at first."""
    requests: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    go_on: threading.Event = field(default_factory=threading.Event)
    stalls: bool = False

    @property
    def url(self) -> str:
        return f"{self.address}/resolve/file.txt"

    def ranges(self) -> list[str | None]:
        return [request.get("Range") for request in self.requests]


def handler_for(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self.path.startswith("/resolve/"):  # as the hub does with large files
                self.send_response(302)
                self.send_header("Location", f"{hub.address}/stored/file")
                if hub.linked_sha256:
                    self.send_header("X-Linked-Etag", f'"{hub.linked_sha256}"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            hub.requests.append(dict(self.headers))
            if hub.statuses:
                self.send_error(hub.statuses.popleft())
                return
            self.send_file()

        def send_file(self) -> None:
            start, size = 0, len(hub.content)
            wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
            if hub.always_partial:
                wanted = wanted or "bytes=0-"
            same = condition in (None, hub.etag) or not hub.heeds_if_range
            if wanted and hub.takes_ranges and same:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= size:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{size}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            else:
                self.send_response(200)
            if hub.etag:
                self.send_header("ETag", hub.etag)
            if hub.tells_size:
                self.send_header("Content-Length", str(size - start))
            self.end_headers()
            cut = hub.cuts.popleft() if hub.cuts else hub.always_cut
            body = hub.content[start:]
            if hub.stalls:
                self.wfile.write(body[:200_000])
                hub.go_on.wait()
                return
            self.wfile.write(body if cut is None else body[:cut])

    return Handler


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reach the server here even where a proxy is set for the rest of the world."""
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(hub))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield hub
    hub.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "file.txt"


class Pauses(list[float]):
    """Stands in for sleeping."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def get(hub: Hub, path: Path, **options: Any) -> bool:
    options = {"num_bytes": len(CONTENT), "sha256": SHA256, "pause": Pauses(), **options}
    return fetch(hub.url, path, **options)


def others(path: Path) -> list[str]:
    """Return what lies beside the file."""
    return sorted(other.name for other in path.parent.iterdir() if other != path)


def test_a_file_comes_whole_and_leaves_nothing_else(hub: Hub, path: Path) -> None:
    assert get(hub, path)
    assert path.read_bytes() == CONTENT
    assert others(path) == []


def test_a_whole_file_that_is_called_a_part_is_checked_too(hub: Hub, path: Path) -> None:
    hub.always_partial = True
    hub.content = bytes(len(CONTENT))
    with pytest.raises(DamagedError, match="must have sha256"):
        get(hub, path)
    assert not path.exists()
    hub.content = CONTENT
    assert get(hub, path)
    assert path.read_bytes() == CONTENT
    assert others(path) == []


def test_a_file_that_is_there_is_not_fetched_again(hub: Hub, path: Path) -> None:
    get(hub, path)
    hub.requests.clear()
    assert not get(hub, path)
    assert hub.requests == []


@pytest.mark.parametrize("known", [{}, {"num_bytes": len(CONTENT)}, {"sha256": SHA256}], ids=str)
def test_what_is_not_known_beforehand_is_asked(known: dict[str, Any], hub: Hub, path: Path) -> None:
    options = {"num_bytes": None, "sha256": None, **known}
    assert get(hub, path, **options)
    assert not get(hub, path, **options)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "known", [{"sha256": None}, {"num_bytes": None}, {"sha256": None, "num_bytes": None}], ids=str
)
def test_another_file_of_that_name_is_refused_and_kept(
    known: dict[str, Any], hub: Hub, path: Path
) -> None:
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(DamagedError, match=r"file\.txt must have .*, got .*; it is another file"):
        get(hub, path, **known)
    assert path.read_bytes() == CONTENT[:-1]


def test_a_file_that_nothing_can_be_compared_with_is_refused(hub: Hub, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    hub.tells_size = False
    with pytest.raises(DamagedError, match="tells nothing to compare it with"):
        get(hub, path, num_bytes=None, sha256=None)


def test_it_goes_on_where_the_connection_broke(hub: Hub, path: Path) -> None:
    hub.cuts.extend([200_000, 50_000, None])
    pauses = Pauses()
    assert get(hub, path, pause=pauses)
    assert path.read_bytes() == CONTENT
    assert others(path) == []
    first, second, third = hub.ranges()
    assert first is None
    assert int(second.removeprefix("bytes=").removesuffix("-")) >= 131_072
    assert int(third.removeprefix("bytes=").removesuffix("-")) > 0
    assert hub.requests[1]["If-Range"] == '"one"'
    assert pauses[0] == 1


def test_pauses_grow_until_it_gets_further(hub: Hub, path: Path) -> None:
    hub.statuses.extend([500, 503, 429])
    hub.cuts.extend([200_000])
    pauses = Pauses()
    assert get(hub, path, pause=pauses)
    assert pauses == [1, 2, 4, 1]


def test_a_server_without_ranges_sends_it_all_again(hub: Hub, path: Path) -> None:
    hub.takes_ranges = False
    hub.cuts.extend([200_000, None])
    assert get(hub, path)
    assert path.read_bytes() == CONTENT
    assert len(hub.requests) == 2


@pytest.mark.parametrize("heeds", [True, False])
def test_a_file_that_has_changed_begins_again(heeds: bool, hub: Hub, path: Path) -> None:
    old = bytes(len(CONTENT))
    hub.content, hub.heeds_if_range = old, heeds
    hub.always_cut = 200_000

    def change(_seconds: float) -> None:
        hub.content, hub.etag, hub.always_cut = CONTENT, '"two"', None

    assert get(hub, path, num_bytes=None, sha256=None, pause=change)
    assert path.read_bytes() == CONTENT


def test_a_file_that_has_become_shorter_begins_again(hub: Hub, path: Path) -> None:
    hub.etag, hub.always_cut = None, 200_000

    def change(_seconds: float) -> None:
        hub.content, hub.always_cut = CONTENT[:1000], None

    sha256 = hashlib.sha256(CONTENT[:1000]).hexdigest()
    assert get(hub, path, num_bytes=None, sha256=sha256, pause=change)
    assert path.read_bytes() == CONTENT[:1000]


def test_the_beginning_of_another_version_is_not_gone_on_with(hub: Hub, path: Path) -> None:
    hub.content, hub.etag, hub.always_cut = bytes(len(CONTENT)), None, 200_000
    with pytest.raises(OSError, match="closed in the middle"):
        get(hub, path, sha256=hashlib.sha256(hub.content).hexdigest(), tries=1)
    hub.content, hub.always_cut = CONTENT, None
    assert get(hub, path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_way_to_know_the_rest_it_begins_again(
    etag: str | None, hub: Hub, path: Path
) -> None:
    hub.etag = etag
    hub.cuts.extend([200_000, None])
    assert get(hub, path, sha256=None)
    assert hub.ranges() == [None, None]
    assert path.read_bytes() == CONTENT


def test_the_word_of_the_hub_is_checked(hub: Hub, path: Path) -> None:
    hub.linked_sha256 = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(DamagedError, match=f"must have sha256 {hub.linked_sha256}, got {SHA256}"):
        get(hub, path, sha256=None)
    hub.linked_sha256 = SHA256
    assert get(hub, path, sha256=None)


def test_an_etag_that_looks_like_a_checksum_is_none(hub: Hub, path: Path) -> None:
    hub.etag = f'"{hashlib.sha256(b"other").hexdigest()}"'
    assert get(hub, path, sha256=None)


def test_a_hub_with_another_file_is_refused_before_it_is_fetched(hub: Hub, path: Path) -> None:
    with pytest.raises(DamagedError, match="of bytes 7, got one of 300000"):
        get(hub, path, num_bytes=7)
    hub.linked_sha256 = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(DamagedError, match=f"of sha256 {SHA256}, got one of {hub.linked_sha256}"):
        get(hub, path)
    assert others(path) == []


def test_a_damaged_file_is_removed_and_comes_right_the_next_time(hub: Hub, path: Path) -> None:
    hub.content = CONTENT[:-1] + b"?"
    with pytest.raises(DamagedError, match="it was removed, and the same command fetches it again"):
        get(hub, path)
    assert list(path.parent.iterdir()) == []
    hub.content = CONTENT
    assert get(hub, path)


@pytest.mark.parametrize(
    ("status", "words"), [(404, "may have moved"), (403, "forbids"), (401, "login"), (418, "418")]
)
def test_refusals_are_told_at_once(status: int, words: str, hub: Hub, path: Path) -> None:
    hub.statuses.append(status)
    with pytest.raises(
        OSError, match=rf"{hub.url} could not be fetched: .*{status}.*{words}|{words}"
    ):
        get(hub, path)
    assert len(hub.requests) == 1


def test_a_connection_that_always_breaks_is_an_error_that_keeps_what_came(
    hub: Hub, path: Path
) -> None:
    hub.always_cut = 0
    hub.cuts.append(200_000)
    pauses = Pauses()
    with pytest.raises(OSError, match=r"200,000 bytes are kept; the same command goes on"):
        get(hub, path, tries=4, pause=pauses)
    assert pauses == [1, 2, 4]
    assert not path.exists()
    hub.always_cut = None
    assert get(hub, path)
    assert hub.ranges()[-1] == "bytes=200000-"


def test_a_server_that_always_cuts_without_ranges_is_given_up(hub: Hub, path: Path) -> None:
    hub.takes_ranges, hub.always_cut = False, 200_000
    with pytest.raises(OSError, match="could not be fetched"):
        get(hub, path, tries=3)
    assert len(hub.requests) == 3


def test_no_server_is_told(path: Path) -> None:
    with pytest.raises(OSError, match=r"127.0.0.1:9/x could not be fetched: .*refused"):
        fetch("http://127.0.0.1:9/x", path, tries=2, pause=Pauses())


def test_an_address_that_nobody_knows_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(OSError, match=r"is there a network\?; the same command goes on"):
        fetch("http://nowhere.invalid/x", path, tries=2, pause=Pauses())


def test_a_server_that_falls_silent_is_asked_again(hub: Hub, path: Path) -> None:
    hub.stalls = True

    def wake(_seconds: float) -> None:
        hub.stalls = False

    assert get(hub, path, timeout_seconds=0.5, pause=wake)
    assert hub.ranges()[-1] is not None


def test_killed_in_the_middle_it_goes_on(hub: Hub, path: Path) -> None:
    hub.stalls = True
    part = path.with_name("file.txt.part")
    program = "import sys, pathlib; from scratch.trainer.hub.fetching import fetch; "
    program += "fetch(sys.argv[1], pathlib.Path(sys.argv[2]), sha256=sys.argv[3])"
    arguments = [sys.executable, "-c", program, hub.url, str(path), SHA256]
    with subprocess.Popen(arguments) as process:
        while not (part.exists() and part.stat().st_size):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    kept = part.stat().st_size
    hub.stalls = False
    assert get(hub, path)
    assert hub.ranges()[-1] == f"bytes={kept}-"
    assert path.read_bytes() == CONTENT
    assert others(path) == []


def test_a_part_that_was_complete_is_only_checked(hub: Hub, path: Path) -> None:
    hub.always_cut = 200_000
    with pytest.raises(OSError, match="closed in the middle"):
        get(hub, path, tries=1)
    path.with_name("file.txt.part").write_bytes(CONTENT)  # killed just before the rename
    hub.requests.clear()
    assert get(hub, path)
    assert hub.requests == []


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"url": "x"}', b'{"url": 1, "b": 2}'])
def test_a_part_whose_note_is_torn_begins_again(note: bytes, hub: Hub, path: Path) -> None:
    path.parent.mkdir()
    path.with_name("file.txt.part").write_bytes(b"nothing")
    path.with_name("file.txt.part.json").write_bytes(note)
    assert get(hub, path)
    assert path.read_bytes() == CONTENT


def test_a_disk_without_room_is_told_before(
    hub: Hub, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(OSError, match="must have room for 300,000 bytes, got 5") as caught:
        get(hub, path)
    assert caught.value.errno == errno.ENOSPC


def test_a_disk_that_becomes_full_keeps_what_came(hub: Hub, path: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(OSError, match="the disk is full; make room"):
            get(hub, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert get(hub, path)
    assert hub.ranges()[-1] is not None
    assert path.read_bytes() == CONTENT


def test_two_do_not_fetch_the_same_file(hub: Hub, path: Path) -> None:
    hub.statuses.append(503)

    def try_beside(_seconds: float) -> None:
        with pytest.raises(OSError, match="is being fetched by another trainer"):
            get(hub, path)

    assert get(hub, path, pause=try_beside)
    assert path.read_bytes() == CONTENT


def test_failures_are_told_with_what_happens_next(
    hub: Hub, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.statuses.append(503)
    get(hub, path)
    assert capsys.readouterr() == (
        "",
        "file.txt: the server answers 503 Service Unavailable; trying again in 1 s\n",
    )
