"""The processes that train together, as `torchrun` starts them, seen from one of them.

What a process asks of the others goes through `World`, and a process on its own is a world of one,
in which nothing is asked: so that there is one program for both. Torch's own process groups do the
work, gloo for tensors of the CPU and NCCL for those of a GPU.
"""

# pyright: reportPrivateImportUsage=false, reportUnknownMemberType=false

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast, overload

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
Scalar = TypeVar("Scalar", bound=np.generic)

# Threads of gloo let go of their last work a moment after it is done. For that they need the Python
# interpreter, and if that is gone by then they end the process with an error.
_LETTING_GO_SECONDS = 0.1

# Between two looks at whether all are there.
_MEETING_SECONDS = 0.05

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class World:
    """Where a process stands among those that train together; by default it is alone.

    What is marked as collective has to be called by all of them, in the same order, and returns
    when the others have called it too.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: number of this process on its machine.
        local_size: number of processes on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that speaks and writes for all."""
        return self.rank == 0

    @overload
    def share(self, items: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]: ...
    @overload
    def share(self, items: Sequence[T]) -> Sequence[T]: ...
    def share(self, items: Sequence[T] | npt.NDArray[Scalar]) -> Sequence[T] | npt.NDArray[Scalar]:
        """Return the part of `items` that is this process's: as many in a row as the others get.

        Raises:
            ValueError: if they cannot be divided evenly.
        """
        if len(items) % self.size:
            raise ValueError(
                "the number of processes must divide the batch, "
                f"got a batch of {len(items)} for {self.size} processes"
            )
        count = len(items) // self.size
        return items[self.rank * count : (self.rank + 1) * count]

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all processes. Collective; nobody waits for a GPU."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def gather(self, values: Tensor) -> Tensor:
        """Return the `values` of all processes, by rank along a new first axis. Collective."""
        if self.size == 1:
            return values[None]
        gathered = values.new_empty(self.size * values.numel())
        dist.all_gather_into_tensor(gathered, values.flatten())
        return gathered.view(self.size, *values.shape)

    def any(self, flag: bool) -> bool:
        """Return whether some process says so. Collective."""
        return bool(self.sum(torch.tensor(int(flag))) > 0)

    def from_main(self, value: T, *, group: dist.ProcessGroup | None = None) -> T:
        """Return the value that the process of rank 0 has. Collective among `group`, or all."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=group, device=torch.device("cpu"))
        return box[0]

    def on_main(self, work: Callable[[], T], *, group: dist.ProcessGroup | None = None) -> T:
        """Let the process of rank 0 do something; return what comes of it, or raise it, in all.

        Collective among `group`, or all.
        """
        result: T | None = None
        failure: Exception | None = None
        if self.is_main:
            try:
                result = work()
            except Exception as error:
                failure = error
        result, told = self.from_main((result, failure), group=group)
        if told is not None:
            raise failure or told  # that from here has a traceback
        return cast("T", result)

    def first(self, value: T | None) -> T | None:
        """Return the value of the first process that has one, in all. Collective."""
        if self.size == 1:
            return value
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return next((each for each in values if each is not None), None)

    def wait(self) -> None:
        """Return when all processes have called this. Collective."""
        self.any(False)


ALONE = World()


def read_world() -> World:
    """Return the world that `torchrun` tells of in the environment, or `ALONE` without it.

    Raises:
        ValueError: if only a part is told, or it does not fit together.
    """
    told = {name: os.environ.get(name) for name in _NAMES}
    if all(told[name] is None for name in ("RANK", "WORLD_SIZE")):
        return ALONE
    try:
        rank, size, local_rank, local_size = (int(cast("str", told[name])) for name in _NAMES)
    except (TypeError, ValueError):
        got = ", ".join(f"{name}={value}" for name, value in told.items())
        raise ValueError(
            f"a process among others needs {', '.join(_NAMES)} as torchrun sets them, got {got}"
        ) from None
    if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
        got = ", ".join(f"{name}={value}" for name, value in told.items())
        raise ValueError(f"ranks must be below the numbers of processes, got {got}")
    return World(rank, size, local_rank, local_size)


@contextmanager
def join_world(device_type: str = "cpu", *, timeout_seconds: float = 600) -> Generator[World]:
    """Meet the other processes that `torchrun` started, and part from them at the end.

    A process on its own meets nobody. With `device_type` "cuda" each process of a machine takes the
    GPU of its local rank. If the block raises, the process does not wait for the others, which are
    not coming: it has to end, and torchrun then ends them.

    Args:
        device_type: where the tensors are that the processes exchange, "cpu" or "cuda".
        timeout_seconds: how long to wait for the others at any one place.

    Raises:
        ValueError: if the environment tells of no good world, or there are more processes than GPUs
            on this machine.
    """
    world = read_world()
    if world.size == 1:
        yield world
        return
    if device_type == "cuda" and torch.cuda.device_count() < world.local_size:
        raise ValueError(
            "a machine must have a GPU for each of its processes, got "
            f"{world.local_size} processes and {torch.cuda.device_count()} GPUs"
        )
    timeout = timedelta(seconds=timeout_seconds)
    store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
    store = dist.PrefixStore(_meet(store, world, timeout_seconds), store)
    place: dict[str, Any] = {"store": store, "rank": world.rank, "world_size": world.size}
    if device_type == "cuda":
        device = torch.device("cuda", world.local_rank)
        torch.cuda.set_device(device)
        place["device_id"] = device
    backends = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
    dist.init_process_group(backends, timeout=timeout, **place)
    yield world
    world.wait()
    dist.destroy_process_group()
    time.sleep(_LETTING_GO_SECONDS)


def _meet(store: Any, world: World, timeout_seconds: float) -> str:
    """Return a name for this meeting: the same in all processes, and of no earlier one.

    After a restart torchrun may serve the same store, where the addresses of the dead still are,
    and the agents of several machines each count restarts for themselves. So every process leaves
    a name of its own, the main one makes a list of them, and the list holds when all have found
    themselves in it: the dead do not answer.
    """
    end = time.monotonic() + timeout_seconds
    own = secrets.token_hex(8)
    store.set(f"here/{world.rank}", own)
    while time.monotonic() < end:
        if world.is_main:
            store.set("meeting", ",".join(_text(store, f"here/{r}") for r in range(world.size)))
        names = _text(store, "meeting")
        if own in names.split(","):
            meeting = hashlib.sha256(names.encode()).hexdigest()
            store.set(f"{meeting}/{world.rank}", "")
            if store.check([f"{meeting}/{rank}" for rank in range(world.size)]):
                return meeting
        time.sleep(_MEETING_SECONDS)
    raise RuntimeError(f"process {world.rank} of {world.size} timed out waiting for the others")


def _text(store: Any, key: str) -> str:
    """Return a value, which somebody may have to write first."""
    return store.get(key).decode()
