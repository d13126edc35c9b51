"""What a process is told of the others, and what it is on its own."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from scratch.train import (
    ALONE,
    World,
    evaluation_batches,
    is_sharded,
    join_world,
    parallelize,
    read_world,
    train_steps,
    whole_state,
    window_batch,
)
from scratch.train._evaluation import Padding

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
ANY = settings(deadline=None, derandomize=True)
TOKENS = np.random.default_rng(0).integers(0, 11, 61)


@pytest.fixture(autouse=True)
def no_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def tell(monkeypatch: pytest.MonkeyPatch, *values: object) -> None:
    for name, value in zip(NAMES, values, strict=True):
        monkeypatch.setenv(name, str(value))


def test_a_process_on_its_own_is_a_world_of_one() -> None:
    with join_world() as world:
        assert world == ALONE == World(0, 1, 0, 1)
    values = torch.tensor([1.0, 2.0])
    assert world.sum(values) is values
    assert world.gather(values).tolist() == [[1.0, 2.0]]
    assert world.any(True)
    assert not world.any(False)
    assert world.first("mine") == world.from_main("mine") == world.on_main(lambda: "mine") == "mine"
    assert world.share([1, 2, 3]) == [1, 2, 3]
    world.wait()
    with pytest.raises(KeyError, match="mine"):
        world.on_main(lambda: {}["mine"])


def test_torchrun_tells_a_process_where_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    tell(monkeypatch, 5, 8, 1, 4)
    assert read_world() == World(rank=5, size=8, local_rank=1, local_size=4)
    assert not read_world().is_main


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("8", "8", "0", "4"), "ranks must be below the numbers of processes, got RANK=8"),
        (("0", "8", "4", "4"), "ranks must be below"),
        (("0", "2", "0", "4"), "ranks must be below"),
        (("x", "2", "0", "2"), "needs RANK, WORLD_SIZE, .* got RANK=x"),
    ],
)
def test_a_place_that_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, values: tuple[str, ...], message: str
) -> None:
    tell(monkeypatch, *values)
    with pytest.raises(ValueError, match=message):
        read_world()


def test_half_a_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="got RANK=0, WORLD_SIZE=None"):
        read_world()


def test_a_machine_needs_a_gpu_for_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    tell(monkeypatch, 0, 2, 0, 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="got 2 processes and 1 GPUs"), join_world("cuda"):
        pass


@ANY
@given(st.integers(1, 6), st.integers(0, 5))
def test_shares_lie_side_by_side_and_are_everything(size: int, each: int) -> None:
    items = np.arange(size * each)
    shares = [World(rank, size).share(items) for rank in range(size)]
    assert {len(share) for share in shares} == {each}
    assert np.concatenate(shares).tolist() == items.tolist()


def test_what_cannot_be_shared_evenly_is_refused() -> None:
    with pytest.raises(ValueError, match="must divide the batch, got a batch of 6 for 4"):
        World(1, 4).share(range(6))


@ANY
@given(st.integers(0, 61), st.integers(1, 4), st.integers(1, 5))
def test_batches_of_an_evaluation_go_round_the_processes(
    length: int, batch_size: int, size: int
) -> None:
    def batches(world: World) -> list[Padding]:
        found = evaluation_batches(
            [TOKENS[:length]], context_length=4, batch_size=batch_size, world=world
        )
        return list(found)  # pyright: ignore[reportReturnType]

    every = batches(ALONE)
    shares = [batches(World(rank, size)) for rank in range(size)]
    assert {len(share) for share in shares} == {-(-len(every) // size)}
    rounds = [batch for together in zip(*shares, strict=True) for batch in together]
    counted = [batch for batch in rounds if not isinstance(batch, Padding)]
    assert rounds[: len(every)] == rounds[: len(counted)]  # what is not counted comes last
    for found, expected in zip(counted, every, strict=True):
        assert torch.equal(found.inputs, expected.inputs)
        assert torch.equal(found.targets, expected.targets)


def test_there_must_be_somebody_to_share_with() -> None:
    model = nn.Linear(2, 2)
    assert parallelize(model, ALONE, parallel="none") is model
    assert not is_sharded(model)
    assert whole_state(model, ALONE).keys() == model.state_dict().keys()
    with pytest.raises(ValueError, match="parallel must be none for a process on its own, got ddp"):
        parallelize(model, ALONE, parallel="ddp")
    with pytest.raises(ValueError, match="parallel must not be none for 2 processes"):
        parallelize(model, World(0, 2), parallel="none")


def test_only_the_last_micro_batch_exchanges_gradients() -> None:
    class Watched(nn.Embedding):
        asked: list[bool]

        def set_requires_gradient_sync(self, requires_gradient_sync: bool) -> None:
            self.asked.append(requires_gradient_sync)

    model = Watched(11, 11)
    model.asked = []
    empty = window_batch(TOKENS, [], 4)
    parts = [window_batch(TOKENS, [0, 9], 4), window_batch(TOKENS, [20], 4), empty]
    loss = nn.functional.cross_entropy
    steps = train_steps(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        lambda _: parts,
        loss=lambda model, batch: loss(model(batch.inputs).transpose(1, 2), batch.targets),
        schedule=lambda _: 0.1,
        stop=2,
    )
    assert len(list(steps)) == 2
    assert model.asked == [False, True, False, True]


@pytest.mark.distributed
@pytest.mark.slow
def test_a_spread_model_needs_imports_that_others_do_not_pay_for() -> None:
    program = (
        "import sys, torch; from scratch.train import ALONE, whole_state; "
        "whole_state(torch.nn.Linear(1, 1), ALONE); "
        "print('torch.distributed.checkpoint' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
