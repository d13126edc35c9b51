"""Asking a server for a file: what it says of the file, and which errors pass by themselves."""

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import requests
from urllib3.exceptions import HTTPError, IncompleteRead

_CONNECT_SECONDS = 10.0
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_ADVICE = {
    401: "it must be public, but the server asks for a login",
    403: "it must be public, but the server forbids it",
    404: "there is no such file; the data set may have moved",
}


class BrokenError(Exception):
    """The connection failed, or the server for the moment: another try may go better."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What is known of a file before it is there; None for what is not."""

    num_bytes: int | None = None
    sha256: str | None = None
    etag: str | None = None


@contextmanager
def answer_of(
    url: str, headers: Mapping[str, str], *, timeout_seconds: float
) -> Generator[requests.Response]:
    """Yield the answer to a request, whose content has not been read yet.

    Raises:
        BrokenError: if another try may go better, also while the content is read.
        OSError: if none will.
    """
    try:
        with requests.get(
            url, headers=headers, stream=True, timeout=(_CONNECT_SECONDS, timeout_seconds)
        ) as response:
            status = response.status_code
            if status in _PASSING_STATUS:
                raise BrokenError(f"the server answers {status} {response.reason}")
            if status not in (200, 206) and not (status == 416 and "Range" in headers):
                advice = f"; {_ADVICE[status]}" if status in _ADVICE else ""
                raise OSError(
                    f"{url} could not be fetched: "
                    f"the server answers {status} {response.reason}{advice}"
                )
            yield response
    except (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
        HTTPError,
    ) as error:
        reason = _core(error)
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            raise OSError(f"{url} has no certificate that is trusted here: {reason}") from None
        raise BrokenError(reason) from None


def announced(response: requests.Response) -> Identity:
    """Return what the server says of the whole file.

    The hub gives its own word on a large file, the sha256 in `X-Linked-Etag`, before it redirects
    to where the bytes are. The ETag there may look like a sha256, and be another hash.
    """
    sha256 = None
    for answer in (*response.history, response):
        linked = answer.headers.get("X-Linked-Etag", "").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", linked):
            sha256 = linked
    size = None
    if response.status_code == 206:
        size = response.headers.get("Content-Range", "").rpartition("/")[2]
    elif response.status_code == 200:
        size = response.headers.get("Content-Length")
    etag = response.headers.get("ETag", "")
    return Identity(
        num_bytes=int(size) if size and size.isdecimal() else None,
        sha256=sha256,
        etag=etag if etag.startswith('"') else None,  # a weak one does not stand for bytes
    )


def _core(error: Exception) -> str:
    """Return the innermost of the reasons that requests and urllib3 wrap into each other."""
    while inner := next(
        (e for e in (getattr(error, "reason", None), *error.args) if isinstance(e, Exception)), None
    ):
        error = inner
    if isinstance(error, IncompleteRead):
        return "the connection was closed in the middle"
    text = re.sub(r"^.*?HTTPS?Connection(Pool)?\(.*?\): ", "", str(error)) or type(error).__name__
    return f"{text}; is there a network?" if "resolve" in text else text
