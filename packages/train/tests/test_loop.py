"""One update is the gradient of the mean loss, however it is cut, and a bad one is left out."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from scratch.train import (
    Batch,
    NonFiniteError,
    Step,
    WindowSampler,
    load_checkpoint,
    save_checkpoint,
    train_steps,
    window_batch,
)

NewModel = Callable[..., nn.Module]
Loss = Callable[[nn.Module, Batch], Tensor]

TOKENS = np.random.default_rng(0).integers(0, 11, 400)
SAMPLER = WindowSampler(num_tokens=400, context_length=6, batch_size=8, seed=0)


def whole_batches(done: int) -> list[Batch]:
    return [window_batch(TOKENS, SAMPLER.starts(done), 6)]


def take_steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, **changes: Any
) -> list[Step]:
    arguments: dict[str, Any] = {"schedule": lambda _: 0.1, "stop": 5} | changes
    batches = arguments.pop("batches", whole_batches)
    return list(train_steps(model, optimizer, batches, loss=loss, **arguments))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0, weight_decay=0.1)


class MaskedSGD(torch.optim.SGD):
    """Leaves out updates by `torch.where`, and remembers the masks."""

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        super().__init__(params, lr=0)
        self.masks: list[Tensor] = []

    @torch.no_grad()
    def masked_step(self, finite: Tensor, /) -> None:
        self.masks.append(finite)
        for group in self.param_groups:
            for p in group["params"]:
                p.copy_(torch.where(finite, p - group["lr"] * p.grad, p))


def copied(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(left: Iterable[Tensor], right: Iterable[Tensor]) -> bool:
    return all(itertools.starmap(torch.equal, zip(left, right, strict=True)))


# --- what surrounds an update


def test_each_update_is_made_within_a_context_of_its_own() -> None:
    events: list[str] = []

    @contextmanager
    def context() -> Iterator[None]:
        events.append("enter")
        yield
        events.append("exit")

    class Spy(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            events.append("step")
            return super().step(closure)

    model = nn.Embedding(11, 11)
    spied = model.weight.register_hook(lambda _: events.append("backward"))
    steps = train_steps(
        model,
        Spy(model.parameters(), lr=0),
        whole_batches,
        loss=lambda model, batch: model(batch.inputs).square().mean(),
        schedule=lambda _: 0.1,
        context=context,
        stop=2,
    )
    for step in steps:
        note = f"update {step.number}"
        events.append(note)
    spied.remove()
    within = ["enter", "backward", "step", "exit"]
    assert events == [*within, "update 1", *within, "update 2"]


def test_a_group_may_scale_the_rate_of_the_schedule() -> None:
    model = nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 11))
    groups = [
        {"params": model[0].parameters(), "lr_scale": 0.5},
        {"params": model[1].parameters()},
    ]
    optimizer = torch.optim.SGD(groups, lr=0)
    steps = take_steps(
        model, optimizer, lambda model, batch: model(batch.inputs).square().mean(), stop=1
    )
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.1]
    assert steps[0].lr == 0.1


# --- what an update is


def test_an_update_follows_the_gradient_of_the_mean_loss(
    new_model: NewModel, mean_loss: Loss
) -> None:
    model, (batch,) = new_model(), whole_batches(0)
    expected_loss = mean_loss(model, batch)
    gradients = torch.autograd.grad(expected_loss, list(model.parameters()))
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    after = [p - 0.1 * gradient for p, gradient in zip(copied(model), gradients, strict=True)]

    (step,) = take_steps(model, sgd(model), mean_loss, stop=1)

    assert_close(list(model.parameters()), after, rtol=1e-12, atol=1e-14)
    assert_close(step.loss, expected_loss.detach(), rtol=1e-12, atol=0)
    # The norm may be taken in float32.
    assert_close(float(step.grad_norm), float(norm), rtol=1e-5, atol=0)
    assert (step.number, step.lr, step.tokens) == (1, 0.1, 48)
    assert 0 < step.seconds < 60


@pytest.mark.parametrize("cut", [[1] * 8, [3, 1, 4], [7, 1], [2, 2, 2, 2]], ids=str)
def test_it_does_not_matter_how_a_batch_is_cut(
    new_model: NewModel, mean_loss: Loss, cut: list[int]
) -> None:
    def cut_batches(done: int) -> list[Batch]:
        (batch,) = whole_batches(done)
        parts = zip(batch.inputs.split(cut), batch.targets.split(cut), strict=True)
        return list(itertools.starmap(Batch, parts))

    whole, in_parts = new_model(), new_model()
    expected = take_steps(whole, sgd(whole), mean_loss)
    steps = take_steps(in_parts, sgd(in_parts), mean_loss, batches=cut_batches)
    # Sums in another order: a few units in the last place of float64, five updates long.
    assert_close(copied(in_parts), copied(whole), rtol=1e-11, atol=1e-13)
    for step, other in zip(steps, expected, strict=True):
        assert_close(step.loss, other.loss, rtol=1e-11, atol=0)
        assert_close(step.grad_norm, other.grad_norm, rtol=1e-5, atol=0)
        assert step.tokens == other.tokens == 48


def test_every_target_weighs_the_same_in_uneven_micro_batches(
    new_model: NewModel, mean_loss: Loss
) -> None:
    tokens = torch.from_numpy(TOKENS)
    long = Batch(tokens[None, :30], tokens[None, 1:31])
    short = Batch(tokens[None, 40:44], tokens[None, 41:45])
    scores_one = Batch(tokens[None, 50:60], tokens[None, 60:61])
    micro_batches = [long, short, scores_one]

    model, oracle = new_model(), new_model()
    nats = torch.zeros((), dtype=torch.float64)
    for batch in micro_batches:
        logits = oracle(batch.inputs)[0, -batch.targets.shape[1] :]
        nats = nats + functional.cross_entropy(logits, batch.targets[0], reduction="sum")
    (nats / 35).backward()
    after = [p.detach() - 0.1 * p.grad for p in oracle.parameters()]

    (step,) = take_steps(model, sgd(model), mean_loss, batches=lambda _: micro_batches, stop=1)

    assert step.tokens == 35
    assert_close(step.loss, nats.detach() / 35, rtol=1e-12, atol=0)
    assert_close(copied(model), after, rtol=1e-12, atol=1e-14)


def test_clipping_changes_the_update_and_reports_the_norm_before(
    new_model: NewModel, mean_loss: Loss
) -> None:
    def halve(parameters: Iterable[nn.Parameter]) -> Tensor:
        for p in parameters:
            assert p.grad is not None
            p.grad.mul_(0.5)
        return torch.tensor(123.0)

    clipped, plain = new_model(), new_model()
    (step,) = take_steps(clipped, sgd(clipped), mean_loss, clip=halve, stop=1)
    take_steps(plain, sgd(plain), mean_loss, schedule=lambda _: 0.05, stop=1)
    assert step.grad_norm == 123
    assert_close(copied(clipped), copied(plain), rtol=1e-12, atol=1e-14)


def test_gradients_do_not_leak_into_the_next_step(new_model: NewModel, mean_loss: Loss) -> None:
    model = new_model()
    steps = train_steps(
        model, sgd(model), whole_batches, loss=mean_loss, schedule=lambda _: 0.1, stop=3
    )
    for _ in steps:
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_parameters_without_a_gradient_stay_as_they_are(
    new_model: NewModel, mean_loss: Loss
) -> None:
    model = new_model()
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))
    (step,) = take_steps(model, sgd(model), mean_loss, stop=1)
    assert step.grad_norm > 0
    assert torch.equal(model.get_parameter("unused"), torch.ones(3))


def test_a_tiny_model_learns_a_sequence_by_heart(new_model: NewModel, mean_loss: Loss) -> None:
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    batch = Batch(ids[:, :-1], ids[:, 1:])
    model = new_model(width=16)
    steps = take_steps(
        model,
        torch.optim.Adam(model.parameters()),
        mean_loss,
        batches=lambda _: [batch],
        stop=150,
    )
    assert steps[0].loss > 1
    assert steps[-1].loss < 0.01


# --- who is asked what, and when


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (3, 7)])
def test_schedule_counts_updates_and_batches_those_done(
    new_model: NewModel, mean_loss: Loss, start: int, stop: int
) -> None:
    asked: list[tuple[str, int]] = []

    def schedule(number: int) -> float:
        asked.append(("schedule", number))
        return 0.01 * number

    def batches(done: int) -> list[Batch]:
        asked.append(("batches", done))
        return whole_batches(done)

    model = new_model()
    steps = take_steps(
        model, sgd(model), mean_loss, schedule=schedule, batches=batches, start=start, stop=stop
    )
    assert [number for name, number in asked if name == "schedule"] == [*range(start + 1, stop + 1)]
    assert [done for name, done in asked if name == "batches"] == [*range(start, stop)]
    assert [(step.number, step.lr) for step in steps] == [
        (number, 0.01 * number) for number in range(start + 1, stop + 1)
    ]


def test_every_group_gets_the_learning_rate(new_model: NewModel, mean_loss: Loss) -> None:
    model, still = new_model(), new_model()
    groups = [{"params": [p], "lr": 7.0 * index} for index, p in enumerate(model.parameters())]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    take_steps(model, optimizer, mean_loss, schedule=lambda _: 0.25, stop=1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]

    take_steps(still, sgd(still), mean_loss, schedule=lambda _: 0.0)
    assert same(copied(still), copied(new_model()))


def test_nothing_happens_before_a_step_is_asked_for(new_model: NewModel, mean_loss: Loss) -> None:
    model, done_so_far = new_model(), []

    def batches(done: int) -> list[Batch]:
        done_so_far.append(done)
        return whole_batches(done)

    steps = train_steps(
        model, sgd(model), batches, loss=mean_loss, schedule=lambda _: 0.1, stop=10**9
    )
    assert done_so_far == []
    for step in steps:
        assert done_so_far == list(range(step.number))
        if step.number == 3:
            break
    assert done_so_far == [0, 1, 2]


def test_no_updates_are_left_when_start_is_stop(new_model: NewModel, mean_loss: Loss) -> None:
    model = new_model()
    assert take_steps(model, sgd(model), mean_loss, start=5, stop=5) == []
    assert same(copied(model), copied(new_model()))


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (6, 5), (0, -1)])
def test_wrong_bounds_are_refused_at_once(
    new_model: NewModel, mean_loss: Loss, start: int, stop: int
) -> None:
    model = new_model()
    with pytest.raises(ValueError, match=rf"0 <= start <= stop, got {start} and {stop}"):
        train_steps(
            model,
            sgd(model),
            whole_batches,
            loss=mean_loss,
            schedule=lambda _: 0.1,
            start=start,
            stop=stop,
        )


@pytest.mark.parametrize("targets", [None, 0], ids=["no batch", "no target"])
def test_a_step_without_a_target_is_refused(
    new_model: NewModel, mean_loss: Loss, targets: int | None
) -> None:
    def batches(done: int) -> list[Batch]:
        (batch,) = whole_batches(done)
        if done < 2:
            return [batch]
        return [] if targets is None else [Batch(batch.inputs, batch.targets[:, :targets])]

    model = new_model()
    with pytest.raises(ValueError, match="at least one target, got none at step 2"):
        take_steps(model, sgd(model), mean_loss, batches=batches)


# --- updates that are not finite


def faulty(loss: Loss, at: int, fault: Callable[[nn.Module], Tensor]) -> Loss:
    """Return `loss`, to whose call number `at` a fault is added."""
    calls = itertools.count(1)

    def with_fault(model: nn.Module, batch: Batch) -> Tensor:
        value = loss(model, batch)
        return value + fault(model) if next(calls) == at else value

    return with_fault


FAULTS: dict[str, Callable[[nn.Module], Tensor]] = {
    "loss not a number": lambda model: next(model.parameters()).sum() * math.nan,
    "loss infinite": lambda model: next(model.parameters()).sum() * math.inf,
    # The root of zero is zero; its slope is not finite.
    "gradient only": lambda model: (0 * next(model.parameters())).sum().sqrt(),
    "loss only": lambda _: torch.tensor(math.nan),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("make", [sgd, adamw, lambda model: MaskedSGD(model.parameters())])
def test_an_update_that_is_not_finite_is_left_out(
    new_model: NewModel,
    mean_loss: Loss,
    make: Callable[[nn.Module], torch.optim.Optimizer],
    fault: str,
) -> None:
    model = new_model()
    optimizer = make(model)
    before: list[Tensor] = []
    steps = train_steps(
        model,
        optimizer,
        whole_batches,
        loss=faulty(mean_loss, 2, FAULTS[fault]),
        schedule=lambda _: 0.1,
        stop=3,
    )
    for step in steps:
        if step.number == 2:
            assert same(copied(model), before)
            with pytest.raises(NonFiniteError, match="step 2"):
                step.check_finite()
        else:
            assert not before or not same(copied(model), before)
            step.check_finite()
        before = copied(model)
    if isinstance(optimizer, MaskedSGD):
        assert [mask.item() for mask in optimizer.masks] == [True, False, True]


def test_the_state_of_the_optimizer_is_left_out_too(new_model: NewModel, mean_loss: Loss) -> None:
    def batches_without_the_second(done: int) -> list[Batch]:
        return whole_batches([0, 2][done])

    faulted, spared = new_model(), new_model()
    take_steps(faulted, adamw(faulted), faulty(mean_loss, 2, FAULTS["loss not a number"]), stop=3)
    take_steps(spared, adamw(spared), mean_loss, batches=batches_without_the_second, stop=2)
    assert same(copied(faulted), copied(spared))


def test_one_bad_micro_batch_spoils_the_whole_update(new_model: NewModel, mean_loss: Loss) -> None:
    model = new_model()
    loss = faulty(mean_loss, 3, FAULTS["loss not a number"])
    (step,) = take_steps(
        model, sgd(model), loss, batches=lambda done: whole_batches(done) * 4, stop=1
    )
    assert same(copied(model), copied(new_model()))
    with pytest.raises(NonFiniteError):
        step.check_finite()


def test_the_error_names_step_loss_norm_and_learning_rate() -> None:
    step = Step(
        number=41,
        loss=torch.tensor(math.inf),
        grad_norm=torch.tensor(math.nan),
        lr=3e-4,
        tokens=8,
        seconds=0.1,
    )
    with pytest.raises(
        NonFiniteError, match=r"step 41: .*loss inf, gradient norm nan .*rate 0\.0003.*not applied"
    ):
        step.check_finite()


def test_no_step_waits_for_the_device(new_model: NewModel, mean_loss: Loss) -> None:
    # Tensors of the meta device have no values: reading one, as waiting would, is an error.
    model = new_model().to("meta")
    optimizer = MaskedSGD(model.parameters())
    steps = take_steps(
        model,
        optimizer,
        mean_loss,
        batches=lambda done: [window_batch(TOKENS, SAMPLER.starts(done), 6, "meta")] * 2,
    )
    assert [step.loss.device.type for step in steps] == ["meta"] * 5
    assert [mask.device.type for mask in optimizer.masks] == ["meta"] * 5
    with pytest.raises(RuntimeError, match="meta"):
        steps[0].check_finite()


def test_losses_and_norms_are_scalars_that_hold_no_graph(
    new_model: NewModel, mean_loss: Loss
) -> None:
    model = new_model()
    for step in take_steps(model, sgd(model), mean_loss):
        for value in (step.loss, step.grad_norm):
            assert value.shape == ()
            assert not value.requires_grad


# --- resuming


@pytest.mark.parametrize("cut", [0, 1, 7, 11, 12])
@pytest.mark.parametrize("make", [adamw, sgd])
def test_resuming_equals_never_stopping(
    new_model: NewModel,
    mean_loss: Loss,
    tmp_path: Path,
    make: Callable[[nn.Module], torch.optim.Optimizer],
    cut: int,
) -> None:
    def schedule(number: int) -> float:
        return 0.1 * (1 - number / 12)

    straight = new_model()
    expected = take_steps(straight, make(straight), mean_loss, schedule=schedule, stop=12)

    model = new_model()
    optimizer = make(model)
    first = take_steps(model, optimizer, mean_loss, schedule=schedule, stop=cut)
    save_checkpoint(model, optimizer, cut, tmp_path / "run.pt")

    model = new_model(seed=99)
    optimizer = make(model)
    start = load_checkpoint(tmp_path / "run.pt", model, optimizer)
    second = take_steps(model, optimizer, mean_loss, schedule=schedule, start=start, stop=12)

    assert same(copied(model), copied(straight))
    assert [(step.number, float(step.loss)) for step in first + second] == [
        (step.number, float(step.loss)) for step in expected
    ]


# --- what callers hand over


def test_gradients_from_before_do_not_enter_the_first_update(
    new_model: NewModel, mean_loss: Loss
) -> None:
    fresh, stale = new_model(), new_model()
    mean_loss(stale, whole_batches(3)[0]).backward()
    for model in (fresh, stale):
        take_steps(model, sgd(model), mean_loss, stop=1)
    assert torch.equal(fresh.head, stale.head)


def test_a_micro_batch_without_targets_adds_nothing(new_model: NewModel, mean_loss: Loss) -> None:
    plain, padded = new_model(), new_model()
    empty = Batch(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.int64))
    (step,) = take_steps(plain, sgd(plain), mean_loss, stop=1)
    (same,) = take_steps(
        padded, sgd(padded), mean_loss, stop=1, batches=lambda done: [*whole_batches(done), empty]
    )
    assert torch.equal(step.loss, same.loss)
    assert torch.equal(plain.head, padded.head)


def test_the_learning_rate_of_a_numpy_schedule_is_a_plain_number(
    new_model: NewModel, mean_loss: Loss, tmp_path: Path
) -> None:
    model = new_model()
    optimizer = adamw(model)
    take_steps(model, optimizer, mean_loss, schedule=lambda n: 0.1 * (1 + np.cos(n)), stop=2)
    save_checkpoint(model, optimizer, 2, tmp_path / "run.pt")
    assert load_checkpoint(tmp_path / "run.pt", new_model(), adamw(new_model())) == 2


@pytest.mark.usefixtures("unchecked")
def test_an_iterator_of_micro_batches_is_refused(new_model: NewModel, mean_loss: Loss) -> None:
    model = new_model()
    with pytest.raises(TypeError, match="batches must give a list"):
        take_steps(model, sgd(model), mean_loss, batches=lambda done: iter(whole_batches(done)))
