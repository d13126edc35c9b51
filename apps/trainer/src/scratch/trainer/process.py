"""This process: how it uses the machine, and what it is among those that torchrun started."""

import ctypes
import json
import os
import sys
import time
from pathlib import Path

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD_BYTES = 32 * 2**20


def let_waiting_threads_sleep() -> None:
    """Let threads that wait for work spin for a moment only, unless the user chose how they wait.

    By default they spin for long, and where somebody else uses the cores too, a step gets many
    times slower. To be called before torch is imported, when OpenMP reads it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def keep_freed_memory() -> None:
    """Let the C library keep large blocks that are freed, where it can be told (glibc).

    By default it hands them back to the system, and a training step asks for them again and gets
    them page by page: thousands of interruptions a step, a tenth of its time.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD_BYTES)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def speaks() -> bool:
    """Return whether this process speaks for all that torchrun started; on its own it does."""
    return os.environ.get("RANK", "0") == "0"


def tell_torchrun(error: Exception, message: str | None = None) -> bool:
    """Leave an error for torchrun to tell; return whether it started this process.

    It tells that of the first process that has failed: the `message`, or else where the error came
    from.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file is None:
        return False
    if message is not None:
        told = {"message": f"{type(error).__name__}: {message}", "timestamp": int(time.time())}
        Path(file).write_text(json.dumps(told))
        return True
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    handler = get_error_handler()
    handler.initialize()
    handler.record_exception(error)
    return True
