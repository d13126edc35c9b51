"""Settings of the process are made where they can be, and leave alone what the user chose."""

import os
import subprocess
import sys

import pytest

from scratch.trainer.process import keep_freed_memory, let_waiting_threads_sleep

FAULTS = """
import resource, sys
from scratch.trainer.process import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(16 << 20)
before = faults()
for _ in range(10):
    bytearray(16 << 20)
print(faults() - before)
"""


def test_waiting_threads_sleep_unless_the_user_chose_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    let_waiting_threads_sleep()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    let_waiting_threads_sleep()
    assert os.environ.pop("GOMP_SPINCOUNT") == "1000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    let_waiting_threads_sleep()
    assert os.environ["GOMP_SPINCOUNT"] == "7"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_not_asked_for_again_page_by_page() -> None:
    def page_faults(word: str) -> int:
        answer = subprocess.run(
            [sys.executable, "-c", FAULTS, word], capture_output=True, check=True
        )
        return int(answer.stdout)

    pages = 16 * 2**20 // os.sysconf("SC_PAGE_SIZE")
    assert page_faults("keep") < pages / 2  # of ten such blocks


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_nothing_is_done(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr("ctypes.CDLL", None)
    keep_freed_memory()
