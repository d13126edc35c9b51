"""A program of one of several processes: the loss of a sharded model against that of the whole.

Called as `sharded_loss.py RANK PROCESSES FOLDER`; it fails if anything differs.
"""

import copy
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.testing import assert_close

from scratch.nn import TransformerConfig, TransformerLM

CONFIG = TransformerConfig(
    vocab_size=37, context_length=16, d_model=16, num_layers=2, num_heads=2, d_ff=32
)


def main(rank: int, processes: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=processes,
        timeout=timedelta(seconds=60),
    )
    torch.manual_seed(7)
    whole = TransformerLM(CONFIG).double()
    sharded = copy.deepcopy(whole)
    for layer in sharded.layers:
        fully_shard(layer)
    fully_shard(sharded)
    register_fsdp_forward_method(sharded, "loss")
    ids = torch.randint(37, (2 * processes, 17))
    for part in ids.chunk(2):  # two micro-batches, whose gradients add up
        mine = part.chunk(processes)[rank]
        loss = whole.loss(part[:, :-1], part[:, 1:]) / 2
        loss.backward()
        (sharded.loss(mine[:, :-1], mine[:, 1:]) / 2).backward()
    for p, q in zip(whole.parameters(), sharded.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        # The mean over the processes of float64 sums, taken in another order.
        assert_close(q.grad.full_tensor(), p.grad, rtol=1e-10, atol=1e-13)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
