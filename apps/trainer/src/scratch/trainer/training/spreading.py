"""A training on the processes that torchrun started: who takes what, and what must fit together."""

import os
import shlex
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch

from scratch.nn import TransformerLM
from scratch.train import Parallel, World, parallelize

from ..config import TrainSettings
from ..data.prepared import PreparedData
from ..fields import flat
from .compiling import Learner

# What the connections of gloo and NCCL say when there is nobody at the other end any more.
_SIGNS = ("closed by peer", "reset by peer", "broken pipe", "remote process exited", "timed out")


def choose_parallel(settings: TrainSettings, world: World) -> Parallel:
    """Return how the processes share the training, which they can.

    A process on its own has everything, whatever the run was begun with.

    Raises:
        ValueError: if they cannot share it as the settings say.
    """
    if world.size == 1:
        return "none"
    if settings.parallel == "none":
        raise ValueError(
            f"parallel must not be none for {world.size} processes, each of which would train "
            "the same; choose ddp, fsdp or hsdp"
        )
    if settings.batch_size % world.size:
        more = -(-settings.batch_size // world.size) * world.size
        raise ValueError(
            f"batch_size must be a multiple of the number of processes, got {settings.batch_size} "
            f"for {world.size} processes; the next is --batch-size {more}"
        )
    if settings.micro_batch_size == "auto":
        raise ValueError(
            f"micro_batch_size must be a number for {world.size} processes, got auto: "
            "one that tries too much would leave the others waiting; "
            "trainer plan tells how much fits on one"
        )
    if ":" in settings.device:
        raise ValueError(
            f"device must be auto, cuda or cpu for {world.size} processes, each of which takes "
            f"its own, got {settings.device}"
        )
    group = settings.group_size
    if settings.parallel == "hsdp" and group is not None and world.size % group:
        raise ValueError(
            f"group_size must divide the number of processes, got {group} for {world.size}"
        )
    return "ddp" if settings.parallel == "auto" else settings.parallel


def spread(
    model: TransformerLM, settings: TrainSettings, world: World, parallel: Parallel
) -> Learner:
    """Return what is to be trained: `model`, or, with ddp, what has its parameters."""
    return cast(
        "Learner",
        parallelize(
            model,
            world,
            parallel=parallel,
            blocks=model.layers,
            methods=("loss",),
            weight_dtype=torch.bfloat16 if settings.gather_dtype == "bfloat16" else None,
            group_size=settings.group_size,
        ),
    )


def resuming_command(config: Path, world: World) -> str:
    """Return the command with which as many processes as there are now go on."""
    if world.size != world.local_size:
        return "the same command on each machine, with --resume"
    program = ["trainer"]
    if world.size > 1:
        program = ["torchrun", "--nproc-per-node", str(world.size), "-m", "scratch.trainer"]
    return shlex.join([*program, "train", "--config", str(config), "--resume"])


def after_a_restart(settings: TrainSettings, world: World) -> TrainSettings:
    """Return the settings with which a run goes on after torchrun has started some process again.

    Collective: torchrun counts restarts on each machine for itself.
    """
    if not world.any(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"):
        return settings
    return settings.model_copy(update={"resume": True, "resume_step": None})


def check_alike(settings: TrainSettings, data: PreparedData, world: World) -> None:
    """Refuse processes that were told different things, or have different data. Collective.

    Raises:
        ValueError: in all of them, naming what differs.
    """
    own = flat(settings.model_dump(mode="json", exclude={"config", "data", "device"}))
    own["data"] = data.manifest
    main = world.from_main(own)
    differences = [key for key in own if own[key] != main.get(key)]
    told = f"process {world.rank} differs in {', '.join(differences)}" if differences else None
    problem = world.first(told)
    if problem is not None:
        raise ValueError(f"all processes must have the same settings and data; {problem}")


@contextmanager
def lost_processes_told(world: World) -> Generator[None]:
    """Say it in a sentence if another process is gone, whose own words say why."""
    try:
        yield
    except RuntimeError as error:
        if world.size == 1 or not any(sign in str(error).lower() for sign in _SIGNS):
            raise
        raise ConnectionError(
            f"process {world.rank} of {world.size} lost another one, which has ended or does not "
            "answer; what that one says is the reason"
        ) from error
