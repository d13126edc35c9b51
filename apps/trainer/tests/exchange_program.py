"""A program of one of several processes: what they exchange in an update, counted.

Called with a way to share the model, the processes of a group and the sequences of a micro-batch.
The main process prints, as JSON, how often each collective is called in an update, the bytes it is
called with, and the bytes that leave the sockets of this process.
"""

import json
import os
import socket
import struct
import sys
from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scratch.nn import TransformerConfig, TransformerLM
from scratch.optim import AdamW, clip_grad_norm
from scratch.train import WindowSampler, join_world, parallelize, train_steps, window_batch

CONTEXT, BATCH, UPDATES = 16, 8, 5
CONFIG = TransformerConfig(
    vocab_size=512, context_length=CONTEXT, d_model=64, num_layers=3, num_heads=2, d_ff=128
)
# Where the kernel keeps `tcpi_bytes_sent` (Linux 4.19): payload, sent again if it was lost.
_SENT_AT = 200


def sent_bytes() -> int:
    """Return what this process has sent over all of its TCP connections so far."""
    total = 0
    for path in list(Path("/proc/self/fd").iterdir()):
        try:
            if not path.is_socket():
                continue
            with socket.socket(fileno=os.dup(int(path.name))) as connection:
                if connection.family in (socket.AF_INET, socket.AF_INET6):
                    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    total += struct.unpack_from("Q", info, _SENT_AT)[0]
        except OSError:  # closed meanwhile, or no TCP
            continue
    return total


class Exchanges(TorchDispatchMode):
    """Counts collectives, and the bytes of the whole tensor that each is about."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        space, name = str(func).split(".")[:2]
        if space in ("c10d", "_c10d_functional") and name.strip("_").startswith(("all", "reduce")):
            kind = name.strip("_").replace("_", "").removesuffix("base")
            leaves = torch.utils._pytree.tree_leaves(args)
            sizes = [x.numel() * x.element_size() for x in leaves if isinstance(x, torch.Tensor)]
            self.calls[kind] += 1
            self.bytes[kind] += sum(sizes) if kind == "allreduce" else max(sizes)
        return func(*args, **(kwargs or {}))


def main(parallel: str, group: int, size: int) -> None:
    torch.set_num_threads(1)
    tokens = np.random.default_rng(0).integers(0, CONFIG.vocab_size, 5000).astype(np.uint16)
    sampler = WindowSampler(
        num_tokens=len(tokens), context_length=CONTEXT, batch_size=BATCH, seed=0
    )
    with join_world() as world:
        torch.manual_seed(0)
        model = TransformerLM(CONFIG)
        gradient_bytes = sum(4 * parameter.numel() for parameter in model.parameters())
        block_bytes = sum(4 * parameter.numel() for parameter in model.layers.parameters())
        learner = parallelize(
            model,
            world,
            parallel=cast("Any", parallel),
            blocks=model.layers,
            methods=("loss",),
            group_size=group,
        )
        every = train_steps(
            learner,
            AdamW(model.parameters(), lr=1e-3),
            lambda done: [
                window_batch(tokens, starts, CONTEXT)
                for starts in np.split(
                    world.share(sampler.starts(done)), BATCH // world.size // size
                )
            ],
            loss=lambda learner, batch: cast("Any", learner).loss(batch.inputs, batch.targets),
            schedule=lambda _: 1e-3,
            clip=lambda parameters: clip_grad_norm(parameters, 1.0),
            world=world,
            stop=3 + UPDATES,
        )
        for _ in range(3):  # DDP parts its buckets anew after the first
            next(every)
        before = sent_bytes()
        with Exchanges() as exchanges:
            for _ in range(UPDATES):
                next(every)
        after = sent_bytes()
        if world.is_main:
            found = {
                "gradient_bytes": gradient_bytes,
                "block_bytes": block_bytes,
                "blocks": CONFIG.num_layers,
                "calls": {kind: n / UPDATES for kind, n in exchanges.calls.items()},
                "bytes": {kind: n / UPDATES for kind, n in exchanges.bytes.items()},
                "sent_bytes": (after - before) / UPDATES,
            }
            print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
