"""A program of one of several processes: a model spread over them against the whole one.

Called by `test_spread.py` with a folder, in which it leaves a checkpoint; it fails if anything
differs.
"""

import copy
import errno
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from scratch.train import (
    ALONE,
    Batch,
    CheckpointError,
    NonFiniteError,
    ShardedSnapshot,
    Step,
    WindowSampler,
    World,
    evaluate,
    evaluation_batches,
    is_sharded,
    join_world,
    load_checkpoint,
    load_sharded_checkpoint,
    parallelize,
    save_checkpoint,
    train_steps,
    whole_state,
    window_batch,
)

VOCAB, CONTEXT, BATCH = 11, 6, 8
TOKENS = np.random.default_rng(0).integers(0, VOCAB, 400).astype(np.uint16)
SAMPLER = WindowSampler(num_tokens=len(TOKENS), context_length=CONTEXT, batch_size=BATCH, seed=0)


class TinyLM(nn.Module):
    """An embedding, two blocks and a head, of odd sizes: no number of processes divides them."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(VOCAB, 7)
        self.blocks = nn.ModuleList(nn.Linear(7, 7) for _ in range(2))
        self.head = nn.Linear(7, VOCAB)
        self.double()

    def forward(self, ids: Tensor) -> Tensor:
        return self.logits(ids)

    def logits(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return self.head(x)

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        logits = self.logits(ids)[:, -targets.shape[1] :]
        return nn.functional.cross_entropy(logits.transpose(1, 2), targets)


def loss_of(model: Any, batch: Batch) -> Tensor:
    return model.loss(batch.inputs, batch.targets)


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), foreach=False)


def in_parts(starts: Any, size: int) -> list[Batch]:
    return [
        window_batch(TOKENS, starts[i : i + size], CONTEXT) for i in range(0, len(starts), size)
    ]


def steps(
    model: Any,
    optimizer: torch.optim.Optimizer,
    world: World,
    *,
    size: int = BATCH,
    batches: Callable[[int], list[Batch]] | None = None,
    start: int = 0,
    stop: int = 20,
    **options: Any,
) -> Iterator[Step]:
    return train_steps(
        model,
        optimizer,
        batches or (lambda done: in_parts(world.share(SAMPLER.starts(done)), size)),
        loss=loss_of,
        schedule=lambda _: 0.02,
        world=world,
        start=start,
        stop=stop,
        **options,
    )


def losses_and_norms(every: Iterator[Step]) -> Tensor:
    found: list[tuple[float, float]] = []
    for step in every:
        step.check_finite()
        found.append((float(step.loss), float(step.grad_norm)))
    return torch.tensor(found, dtype=torch.float64)


def spread(model: TinyLM, world: World, parallel: Any) -> Any:
    return parallelize(
        model, world, parallel=parallel, blocks=model.blocks, methods=("loss",), group_size=2
    )


def check_world(world: World) -> None:
    assert world.share(range(4 * world.size)) == range(4 * world.rank, 4 * world.rank + 4)
    with pytest.raises(ValueError, match="must divide the batch"):
        world.share(range(4 * world.size + 1))
    assert world.sum(torch.tensor([1, world.rank])).tolist() == [
        world.size,
        sum(range(world.size)),
    ]
    assert world.gather(torch.tensor([5 + world.rank])).flatten().tolist() == [
        5 + rank for rank in range(world.size)
    ]
    assert world.gather(torch.tensor(world.rank)).tolist() == list(range(world.size))
    assert world.any(world.rank == world.size - 1)
    assert not world.any(False)
    assert world.from_main(f"from {world.rank}") == "from 0"
    assert world.first(None if world.rank == 0 else world.rank) == 1
    assert world.first(None) is None
    assert world.on_main(lambda: world.rank) == 0

    def fail() -> None:
        raise KeyError("here")

    with pytest.raises(KeyError, match="here"):
        world.on_main(fail)


def check_same_training(world: World, parallel: Any) -> None:
    whole = TinyLM()
    expected = losses_and_norms(steps(whole, make_optimizer(whole), ALONE))
    assert expected[-1, 0] < expected[0, 0] - 0.1  # it learns
    for size in (1, 3, BATCH):  # of a share of 4 sequences, 3 leave an uneven part
        model = TinyLM()
        learner = spread(model, world, parallel)
        assert is_sharded(model) == (parallel != "ddp")
        assert list(learner.state_dict()) == list(whole.state_dict())
        found = losses_and_norms(steps(learner, make_optimizer(model), world, size=size))
        # In float64: the sums are taken in another order, and nothing else.
        assert_close(found, expected, rtol=1e-10, atol=1e-12)
        state = whole_state(model, world)
        assert bool(state) == world.is_main
        for name, tensor in state.items():
            assert_close(tensor, whole.state_dict()[name], rtol=1e-8, atol=1e-10)


def check_uneven_shares(world: World, parallel: Any) -> None:
    """Every target weighs the same, whoever has it: here the main process has more of them."""
    whole, model = TinyLM(), TinyLM()
    expected = losses_and_norms(steps(whole, make_optimizer(whole), ALONE))
    learner = spread(model, world, parallel)
    more = BATCH - (world.size - 1)

    def batches(done: int) -> list[Batch]:
        starts = SAMPLER.starts(done)
        first = 0 if world.is_main else more + world.rank - 1
        return in_parts(starts[first : more if world.is_main else first + 1], BATCH)

    optimizer = make_optimizer(model)
    total = lambda _: BATCH * CONTEXT  # noqa: E731
    found = losses_and_norms(steps(learner, optimizer, world, batches=batches, total_tokens=total))
    assert_close(found, expected, rtol=1e-10, atol=1e-12)
    (step,) = steps(learner, optimizer, world, batches=batches, stop=1)
    with pytest.raises(ValueError, match=f"must have .* targets, got {BATCH * CONTEXT}; uneven"):
        step.check_finite()


class Collectives(TorchDispatchMode):
    """Counts what the processes exchange."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        space, name = str(func).split(".")[:2]
        if space == "c10d":
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def check_exchanges(world: World, parallel: Any, size: int) -> None:
    """Gradients are exchanged once an update, and then two numbers; no more, and no waiting."""
    model = TinyLM()
    every = steps(
        spread(model, world, parallel),
        make_optimizer(model),
        world,
        size=size,
        clip=lambda _: torch.tensor(1.0, dtype=torch.float64),
    )
    for _ in range(2):
        next(every)
    with Collectives() as seen:
        next(every)
    parts = -(-BATCH // world.size // size)
    blocks = len(model.blocks)
    if parallel == "ddp":
        assert seen.counts == {"allreduce_": 1 + 1}
        return
    # The root is gathered once for each part, a block again for its backward pass.
    gathered = parts * (1 + 2 * blocks)
    expected = {"_allgather_base_": gathered, "_reduce_scatter_base_": 1 + blocks, "allreduce_": 1}
    if parallel == "hsdp":
        expected["allreduce_"] += 1 + blocks  # of the shards, between groups
    assert seen.counts == expected, (seen.counts, expected)


def check_nan(world: World, parallel: Any) -> None:
    """A process that sees a NaN stops all of them, and no weight has changed."""
    model = TinyLM()
    learner, optimizer = spread(model, world, parallel), make_optimizer(model)

    def loss(model: Any, batch: Batch) -> Tensor:
        return loss_of(model, batch) * (torch.nan if world.rank == world.size - 1 else 1.0)

    before = whole_state(model, world)
    (step,) = train_steps(
        learner,
        optimizer,
        lambda done: in_parts(world.share(SAMPLER.starts(done)), BATCH),
        loss=loss,
        schedule=lambda _: 0.02,
        world=world,
        stop=1,
    )
    with pytest.raises(NonFiniteError, match="loss nan"):
        step.check_finite()
    after = whole_state(model, world)
    assert all(torch.equal(before[name], after[name]) for name in before)


def check_evaluation(world: World, parallel: Any) -> None:
    """The loss on held-out text is that of one process, bit for bit, for any number of batches."""
    whole, model = TinyLM(), TinyLM()
    learner = spread(model, world, parallel)
    for length in (8, 31, 100, 301):
        for batch_size in (1, 3):
            where: dict[str, Any] = {"context_length": CONTEXT, "batch_size": batch_size}
            alone = evaluation_batches([TOKENS[:length]], **where)
            shared = evaluation_batches([TOKENS[:length]], **where, world=world)
            expected = evaluate(whole, alone, loss=loss_of)
            assert expected.tokens == length - 1
            assert evaluate(learner, shared, loss=loss_of, world=world) == expected
    parameters = [type(parameter) for parameter in model.parameters()]
    assert parallel == "ddp" or len(set(parameters)) == 1  # all of them are shards again


@contextmanager
def full_disk(wanted: bool) -> Iterator[None]:
    def write_data(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", "__1_0.distcp")

    with pytest.MonkeyPatch.context() as patch:
        if wanted:
            patch.setattr(dcp.FileSystemWriter, "write_data", write_data)
        yield


def check_checkpoints(world: World, parallel: Any, folder: Path) -> None:
    model = TinyLM()
    learner, optimizer = spread(model, world, parallel), make_optimizer(model)
    losses_and_norms(steps(learner, optimizer, world, stop=5))
    snapshot = ShardedSnapshot(world)
    snapshot.take(model, optimizer, 5)
    expected = losses_and_norms(steps(learner, optimizer, world, start=5, stop=10))
    snapshot.save(folder)  # what was held when it was taken, not what is there now
    # The main process has the folder when all are through.
    names = {path.name for path in folder.iterdir()}
    parts = {f"__{rank}_0.distcp" for rank in range(world.size)}
    assert names >= {"checkpoint.json", ".metadata"}
    assert names <= {"checkpoint.json", ".metadata", *parts}
    if parallel == "fsdp":
        assert names >= parts
    world.wait()

    for number, way in enumerate(("fsdp", "ddp", "hsdp")[: 2 if world.size == 2 else 3]):
        other = TinyLM(seed=number + 1)
        its_learner, its_optimizer = spread(other, world, way), make_optimizer(other)
        assert load_sharded_checkpoint(folder, other, its_optimizer, world=world) == 5
        found = losses_and_norms(steps(its_learner, its_optimizer, world, start=5, stop=10))
        if way == parallel != "ddp":  # which changes the order of its sums after the first update
            assert torch.equal(found, expected)
        assert_close(found, expected, rtol=1e-9, atol=1e-11)

    if world.is_main:
        torch.save(expected, folder.with_suffix(".expected"))
        whole = TinyLM()
        its_optimizer = make_optimizer(whole)
        load_sharded_checkpoint(folder, whole, its_optimizer)  # alone, beside the others
        save_checkpoint(whole, its_optimizer, 5, folder.with_suffix(".pt"))
    world.wait()
    other = TinyLM(seed=9)
    its_learner, its_optimizer = spread(other, world, parallel), make_optimizer(other)
    assert load_checkpoint(folder.with_suffix(".pt"), other, its_optimizer) == 5
    found = losses_and_norms(steps(its_learner, its_optimizer, world, start=5, stop=10))
    assert_close(found, expected, rtol=1e-9, atol=1e-11)

    # On the last process the disk is full: all of them learn of it, and nothing is left behind.
    if parallel == "fsdp":
        with full_disk(world.rank == world.size - 1), pytest.raises(OSError, match="No space left"):
            snapshot.save(folder.with_name("full"))
        world.wait()
        assert not list(folder.parent.glob("*full*"))

    # A file that is damaged: all of them refuse, before anything is changed.
    if world.is_main:
        path = folder.with_name("damaged") / sorted(parts & names)[-1]
        copy_of(folder, folder.with_name("damaged"))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    world.wait()
    before = copy.deepcopy(whole_state(other, world))
    with pytest.raises(CheckpointError, match="is damaged"):
        load_sharded_checkpoint(folder.with_name("damaged"), other, its_optimizer, world=world)
    after = whole_state(other, world)
    assert all(torch.equal(before[name], after[name]) for name in before)


def copy_of(folder: Path, other: Path) -> None:
    other.mkdir()
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with join_world() as world:
        ways = ("ddp", "fsdp") if world.size == 2 else ("ddp", "fsdp", "hsdp")
        check_world(world)
        for parallel in ways:
            check_same_training(world, parallel)
            check_uneven_shares(world, parallel)
            for size in (1, BATCH):
                check_exchanges(world, parallel, size)
            check_nan(world, parallel)
            check_evaluation(world, parallel)
            here = folder / parallel
            if world.is_main:
                here.mkdir()
            world.wait()
            check_checkpoints(world, parallel, here / "step")
    assert not dist.is_initialized()


if __name__ == "__main__":
    assert os.environ["WORLD_SIZE"]
    main(Path(sys.argv[1]))
