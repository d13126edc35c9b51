"""What several processes cost, against torch's own engines in a bare loop, and against no exchange.

Each process has a core, a model and a share of the batch. In turn, block by block, they train

    alone       their share each, by `train_steps`, exchanging nothing: what there is to compute
    ddp, fsdp   together, by `train_steps` and `parallelize`
    bare_ddp, bare_fsdp   the same model, optimizer and clipping by torch's engines and nothing else

with gloo on one machine. Prints JSON lines of medians over the rounds:

    exchange    seconds of an update together / alone: what the exchange costs
    overhead    seconds of an update of ours / of the bare loop of the same engine
    link        bytes a second at which the gradients are summed, by themselves
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from scratch.nn import TransformerConfig, TransformerLM, fast_matmul
from scratch.optim import AdamW, clip_grad_norm
from scratch.train import (
    ALONE,
    Batch,
    World,
    join_world,
    parallelize,
    train_steps,
    window_batch,
)

CONFIG = TransformerConfig(
    vocab_size=4096, context_length=128, d_model=256, num_layers=4, num_heads=8, d_ff=704
)
LR, NORM = 1e-3, 1.0
ENDLESS = 10**9


class WithLoss(torch.nn.Module):
    """A model whose forward pass is its loss, as DDP wants it."""

    def __init__(self, model: TransformerLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.model.loss(batch.inputs, batch.targets)


def new_model() -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(CONFIG)


def ours(world: World, parallel: Any, batch: Batch) -> Iterator[object]:
    model = new_model()
    learner = parallelize(model, world, parallel=parallel, blocks=model.layers, methods=("loss",))
    return train_steps(
        learner,
        AdamW(model.parameters(), LR),
        lambda _: [batch],
        loss=lambda learner, batch: cast("Any", learner).loss(batch.inputs, batch.targets),
        schedule=lambda _: LR,
        clip=lambda parameters: clip_grad_norm(parameters, NORM),
        context=fast_matmul,
        world=world,
        stop=ENDLESS,
    )


def bare(engine: str, batch: Batch) -> Iterator[object]:
    model = new_model()
    if engine == "ddp":
        replicated = DistributedDataParallel(WithLoss(model), gradient_as_bucket_view=True)
        loss: Callable[[], torch.Tensor] = lambda: replicated(batch)  # noqa: E731
    else:
        for layer in model.layers:
            fully_shard(layer)
        fully_shard(model)
        register_fsdp_forward_method(model, "loss")
        loss = lambda: model.loss(batch.inputs, batch.targets)  # noqa: E731
    optimizer = AdamW(model.parameters(), LR)
    while True:
        with fast_matmul():
            loss().backward()
            clip_grad_norm(model.parameters(), NORM)
            optimizer.step()
        optimizer.zero_grad()
        yield


def seconds_of(steps: Iterator[object], count: int, world: World) -> float:
    world.wait()
    begin = time.perf_counter()
    for _ in range(count):
        next(steps)
    world.wait()
    return (time.perf_counter() - begin) / count


def summed_at(world: World, rounds: int) -> tuple[float, float]:
    """Return the size of the gradients in bytes, and the median rate at which they are summed."""
    gradients = torch.zeros(sum(parameter.numel() for parameter in new_model().parameters()))
    size = 4 * gradients.numel()
    rates: list[float] = []
    for _ in range(rounds):
        world.wait()
        begin = time.perf_counter()
        dist.all_reduce(gradients)
        rates.append(size / (time.perf_counter() - begin))
    return size, statistics.median(rates)


def measure(rounds: int, steps: int, batch_size: int) -> None:
    torch.set_num_threads(1)
    with join_world() as world:
        tokens = np.random.default_rng(world.rank).integers(0, 4096, 50_000).astype(np.uint16)
        starts = np.arange(batch_size) * CONFIG.context_length
        batch = window_batch(tokens, starts, CONFIG.context_length)
        runners = {
            "alone": ours(ALONE, "none", batch),
            "ddp": ours(world, "ddp", batch),
            "bare_ddp": bare("ddp", batch),
            "fsdp": ours(world, "fsdp", batch),
            "bare_fsdp": bare("fsdp", batch),
        }
        for runner in runners.values():
            seconds_of(runner, 3, world)
        seconds: dict[str, list[float]] = {name: [] for name in runners}
        for number in range(rounds):
            order = list(runners)
            for name in order[number % len(order) :] + order[: number % len(order)]:
                seconds[name].append(seconds_of(runners[name], steps, world))
        size, rate = summed_at(world, max(rounds, 7))
        if not world.is_main:
            return
        about = {
            "processes": world.size,
            "rounds": rounds,
            "steps": steps,
            "batch_size": batch_size * world.size,
            "parameters": size // 4,
            "torch": version("torch"),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
        }
        contests = [("exchange", "ddp", "alone"), ("exchange", "fsdp", "alone")]
        contests += [("overhead", "ddp", "bare_ddp"), ("overhead", "fsdp", "bare_fsdp")]
        for job, name, peer in contests:
            ratios = sorted(a / b for a, b in zip(seconds[name], seconds[peer], strict=True))
            record = {
                "job": job,
                "engine": name,
                "step_seconds": round(statistics.median(seconds[name]), 5),
                "peer": peer,
                "peer_step_seconds": round(statistics.median(seconds[peer]), 5),
                "ratio": round(statistics.median(ratios), 4),
                "ratios": [round(ratio, 3) for ratio in ratios],
            }
            print(json.dumps({**record, **about}), flush=True)
        record = {"job": "link", "gradient_bytes": size, "bytes_per_second": round(rate)}
        print(json.dumps({**record, **about}), flush=True)


def start(processes: int) -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
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
            [sys.executable, *sys.argv],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(processes)
    ]
    return max(abs(process.wait()) for process in running)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="updates of a block")
    parser.add_argument("--batch-size", type=int, default=8, help="sequences of each process")
    options = parser.parse_args()
    if "RANK" not in os.environ:
        sys.exit(start(options.processes))
    measure(options.rounds, options.steps, options.batch_size)
