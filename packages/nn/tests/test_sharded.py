"""A model spread over processes by `fully_shard` has the loss and gradients of the whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("sharded_loss.py")


@pytest.mark.slow
def test_a_sharded_model_has_the_gradients_of_the_whole(tmp_path: Path) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(rank), "2", str(tmp_path)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(outputs)
