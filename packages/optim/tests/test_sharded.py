"""Parameters that are spread over processes are updated as the whole would be, and checkpointed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("sharded_steps.py")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_shards_step_as_the_whole_and_resume_from_a_distributed_checkpoint(
    processes: int, tmp_path: Path
) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(rank), str(processes), str(tmp_path)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in running]
    assert [process.returncode for process in running] == processes * [0], "\n".join(outputs)
