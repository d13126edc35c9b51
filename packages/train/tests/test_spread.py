"""A model spread over several processes is trained, evaluated and saved as the whole one is."""

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from scratch.train import ALONE, load_sharded_checkpoint

PROGRAM = Path(__file__).with_name("spread_program.py")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_a_spread_model_does_what_the_whole_one_does(processes: int, tmp_path: Path) -> None:
    common = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(PROGRAM), str(tmp_path)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == processes * [0], "\n".join(outputs)

    # And one process goes on with what several have saved.
    program = runpy.run_path(str(PROGRAM))
    for parallel in ("ddp", "fsdp"):
        folder = tmp_path / parallel / "step"
        model = program["TinyLM"](seed=5)
        optimizer = program["make_optimizer"](model)
        assert load_sharded_checkpoint(folder, model, optimizer) == 5
        every = program["steps"](model, optimizer, ALONE, start=5, stop=10)
        expected = torch.load(folder.with_suffix(".expected"))
        assert_close(program["losses_and_norms"](every), expected, rtol=1e-9, atol=1e-11)
