"""A program of one of several processes: optimizers on shards against optimizers on the whole.

Called as `sharded_steps.py RANK PROCESSES FOLDER`; it fails if anything differs.
"""

import copy
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.testing import assert_close

from scratch.optim import SGD, AdamW, UpdateRatios, _adamw_forms, clip_grad_norm, grad_stats, hybrid

Make = Callable[[nn.Module], Any]

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda model: SGD(model.parameters(), 0.1, momentum=0.9),
    "loop": lambda model: AdamW(model.parameters(), 0.1, form="loop"),
    "foreach": lambda model: AdamW(model.parameters(), 0.1, form="foreach"),
    "compiled": lambda model: AdamW(model.parameters(), 0.1, form="compiled"),
    "hybrid": lambda model: hybrid(
        model.named_parameters(),
        lr=0.1,
        split_rows={"0": 3},
        by_adamw=["2.weight"],
        dtype=torch.float64,
    ),
}


def a_model(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    # 9 and 5 rows: two processes get different numbers of them.
    return nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 5), nn.Linear(5, 1)).double()


def spread(model: nn.Sequential) -> nn.Sequential:
    for layer in model:
        fully_shard(layer)
    return fully_shard(model)


def backward(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    model.zero_grad()
    (100 * model(x).square().mean()).backward()


def compare(whole: nn.Module, shards: nn.Module) -> None:
    for p, q in zip(whole.parameters(), shards.parameters(), strict=True):
        assert_close(q.full_tensor().detach(), p.detach(), rtol=1e-10, atol=1e-12)


def check_steps(make: Make) -> None:
    whole = a_model(1)
    shards = spread(copy.deepcopy(whole))
    optimizer, sharded = make(whole), make(shards)
    ratios = UpdateRatios(shards.named_parameters()), UpdateRatios(whole.named_parameters())
    for seed in range(4):
        backward(whole, seed)
        backward(shards, seed)
        norms = clip_grad_norm(shards.parameters(), 1.0), clip_grad_norm(whole.parameters(), 1.0)
        assert type(norms[0]) is torch.Tensor
        assert_close(*norms, rtol=1e-12, atol=0)
        stats = grad_stats(shards.named_parameters()), grad_stats(whole.named_parameters())
        for name in stats[1]:
            assert_close(stats[0][name].grad_norm, stats[1][name].grad_norm, rtol=1e-9, atol=0)
            assert_close(stats[0][name].weight_norm, stats[1][name].weight_norm, rtol=1e-9, atol=0)
        for each in ratios:
            each.before()
        finite = torch.tensor(seed != 1)
        optimizer.masked_step(finite)
        sharded.masked_step(finite)
        compare(whole, shards)
        after = [each.after() for each in ratios]
        for name in after[1]:
            assert_close(after[0][name], after[1][name], rtol=1e-8, atol=0)


def check_checkpoint(make: Make, folder: Path) -> None:
    shards, fresh = spread(a_model(1)), spread(a_model(2))
    optimizer, resumed = make(shards), make(fresh)
    for seed in range(2):
        backward(shards, seed)
        optimizer.step()
    model_state, optimizer_state = get_state_dict(shards, optimizer)
    dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder)
    model_state, optimizer_state = get_state_dict(fresh, resumed)
    dcp.load({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder)
    set_state_dict(fresh, resumed, model_state_dict=model_state, optim_state_dict=optimizer_state)
    for seed in range(2, 4):
        for each, its in ((shards, optimizer), (fresh, resumed)):
            backward(each, seed)
            its.step()
    for p, q in zip(shards.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(p.to_local(), q.to_local())


def main(rank: int, processes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    _adamw_forms._BACKEND = "eager"
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=processes,
        timeout=timedelta(seconds=60),
    )
    for name, make in OPTIMIZERS.items():
        check_steps(make)
        check_checkpoint(make, folder / name)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
