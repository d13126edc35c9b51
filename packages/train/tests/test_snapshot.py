"""A snapshot holds the moment it was taken, and writes the same file as `save_checkpoint`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from scratch.train import Snapshot, load_checkpoint, save_checkpoint


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.1)


def update(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state
    return [t for v in values if isinstance(v, (dict, list, tuple, Tensor)) for t in tensors(v)]


def test_it_writes_what_a_checkpoint_of_the_moment_holds(model: nn.Module, tmp_path: Path) -> None:
    optimizer, snapshot = adam(model), Snapshot()
    for step in range(1, 4):
        update(model, optimizer, step)
        snapshot.take(model, optimizer, step)
        save_checkpoint(model, optimizer, step, tmp_path / "expected")
        update(model, optimizer, -step)  # before the snapshot is written
        snapshot.save(tmp_path / "found")
        found, expected = (
            torch.load(tmp_path / name, weights_only=True) for name in ("found", "expected")
        )
        assert found["iteration"] == step
        assert_close(tensors(found), tensors(expected), rtol=0, atol=0)
        assert found["optimizer"]["param_groups"] == expected["optimizer"]["param_groups"]
        assert load_checkpoint(tmp_path / "found", model, optimizer) == step


def test_it_shares_no_memory_with_what_goes_on(model: nn.Module) -> None:
    optimizer, snapshot = adam(model), Snapshot()
    update(model, optimizer, 1)
    snapshot.take(model, optimizer, 1)
    taken = tensors(snapshot._content)
    alive = tensors(model.state_dict()) + tensors(optimizer.state_dict())
    assert len(taken) == len(alive) > 10
    assert {t.data_ptr() for t in taken}.isdisjoint(t.data_ptr() for t in alive)


def test_it_takes_memory_once(model: nn.Module) -> None:
    optimizer, snapshot = adam(model), Snapshot()
    places = []
    for step in (1, 2):
        update(model, optimizer, step)
        snapshot.take(model, optimizer, step)
        places.append([t.data_ptr() for t in tensors(snapshot._content)])
    assert places[0] == places[1]


def test_it_grows_when_the_optimizer_has_more_to_say(model: nn.Module, tmp_path: Path) -> None:
    optimizer, snapshot = adam(model), Snapshot()
    snapshot.take(model, optimizer, 0)  # no moments yet
    update(model, optimizer, 1)
    snapshot.take(model, optimizer, 1)
    snapshot.save(tmp_path / "found")
    moments = torch.load(tmp_path / "found", weights_only=True)["optimizer"]["state"]
    expected = tensors(optimizer.state_dict())
    assert_close(tensors(moments), expected, rtol=0, atol=0)
    assert len(expected) > 0


def test_an_empty_snapshot_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="take must be called before save"):
        Snapshot().save(tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []


def test_a_bad_iteration_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="iteration must not be negative, got -1"):
        Snapshot().take(model, adam(model), -1)
