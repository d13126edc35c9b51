"""What processes exchange in an update is what theory says, and nothing more."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

PROGRAM = Path(__file__).with_name("exchange_program.py")
BATCH = 8
# What a process sends besides: the headers of gloo, the two numbers, the norm.
ASIDE = 0.03


def count(processes: int, port: int, *arguments: object) -> dict[str, Any]:
    common = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    running = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), *map(str, arguments)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == processes * [0]
    return json.loads(outputs[0])


def assert_sent(found: dict[str, Any], expected: float) -> None:
    """Assert what the kernel says that the main process has sent, where there is such a kernel."""
    if sys.platform == "linux":
        assert found["sent_bytes"] == pytest.approx(expected, rel=ASIDE)


@pytest.mark.parametrize(("processes", "size"), [(2, 4), (2, 1), (4, 1)])
def test_replicas_send_their_gradients_once_around_a_ring(
    processes: int, size: int, free_port: Callable[[], int]
) -> None:
    found = count(processes, free_port(), "ddp", processes, size)
    gradients = found["gradient_bytes"]
    # One bucket holds all of this model; and the loss with the tokens.
    assert found["calls"] == {"allreduce": 2}
    assert found["bytes"] == {"allreduce": gradients + 16}
    # 2 (n - 1) / n of the gradients, however many micro-batches there are.
    assert_sent(found, 2 * (processes - 1) / processes * gradients)


@pytest.mark.parametrize(("processes", "size"), [(2, 4), (2, 1), (4, 2)])
def test_shards_are_gathered_for_each_part_and_reduced_once(
    processes: int, size: int, free_port: Callable[[], int]
) -> None:
    found = count(processes, free_port(), "fsdp", processes, size)
    parts, blocks = BATCH // processes // size, found["blocks"]
    gradients, in_blocks = found["gradient_bytes"], found["block_bytes"]
    assert found["calls"] == {
        "allgather": parts * (1 + 2 * blocks),  # a block again for its backward pass
        "reducescatter": 1 + blocks,
        "allreduce": 2,  # the loss with the tokens, and the norm
    }
    gathered = parts * (gradients + in_blocks)
    # The norm is a number in float32.
    assert found["bytes"] == {
        "allgather": gathered,
        "reducescatter": gradients,
        "allreduce": 16 + 4,
    }
    # (n - 1) / n of both; but gloo reduces and scatters by an all-reduce, which is twice as much.
    assert_sent(found, (processes - 1) / processes * (gathered + 2 * gradients))


def test_groups_of_shards_exchange_shares(free_port: Callable[[], int]) -> None:
    found = count(4, free_port(), "hsdp", 2, 2)
    blocks, gradients = found["blocks"], found["gradient_bytes"]
    assert found["calls"] == {
        "allgather": 1 + 2 * blocks,
        "reducescatter": 1 + blocks,
        "allreduce": 2 + 1 + blocks,  # each share, between the groups
    }
    gathered = gradients + found["block_bytes"]
    assert found["bytes"] == {
        "allgather": gathered,
        "reducescatter": gradients,
        "allreduce": gradients / 2 + 16 + 4,
    }
    assert_sent(found, 1 / 2 * (gathered + 2 * gradients) + 2 * 1 / 2 * gradients / 2)
