"""Evaluation scores every token once, and leaves the model as it was."""

import math
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from scratch.train import (
    Batch,
    Evaluation,
    Window,
    evaluate,
    evaluation_batches,
    scoring_windows,
    train_steps,
)

NewModel = Callable[..., nn.Module]
Loss = Callable[[nn.Module, Batch], Tensor]

ANY = settings(deadline=None, derandomize=True)

TOKENS = np.random.default_rng(0).integers(0, 11, 61)


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, int, int]:
    """Draw a length, a context length and a stride."""
    context_length = draw(st.integers(1, 30))
    return draw(st.integers(0, 200)), context_length, draw(st.integers(1, context_length))


# --- windows


@ANY
@given(plans())
def test_every_token_but_the_first_is_scored_once(plan: tuple[int, int, int]) -> None:
    length, context_length, stride = plan
    scored: list[int] = []
    for window in scoring_windows(length, context_length=context_length, stride=stride):
        assert 0 <= window.start < window.stop < max(length, 1)
        assert 1 <= window.scored <= window.stop - window.start <= context_length
        # Input i has target i + 1.
        scored += range(window.stop - window.scored + 1, window.stop + 1)
    assert scored == list(range(1, length))


@ANY
@given(plans())
def test_every_token_has_the_context_that_the_stride_promises(plan: tuple[int, int, int]) -> None:
    length, context_length, stride = plan
    windows = scoring_windows(length, context_length=context_length, stride=stride)
    for window in list(windows)[1:]:
        context = window.stop - window.scored - window.start
        assert context >= context_length - stride


def test_windows_by_hand() -> None:
    assert list(scoring_windows(10, context_length=4, stride=4)) == [
        Window(0, 4, 4),
        Window(4, 8, 4),
        Window(5, 9, 1),
    ]
    assert list(scoring_windows(10, context_length=4, stride=2)) == [
        Window(0, 4, 4),
        Window(2, 6, 2),
        Window(4, 8, 2),
        Window(5, 9, 1),
    ]


@pytest.mark.parametrize("length", [0, 1])
def test_a_sequence_without_a_second_token_has_no_window(length: int) -> None:
    assert list(scoring_windows(length, context_length=4, stride=2)) == []


@pytest.mark.parametrize(("context_length", "stride"), [(4, 0), (4, 5), (4, -1), (0, 1)])
def test_a_stride_out_of_range_is_refused(context_length: int, stride: int) -> None:
    expected = rf"stride must be in 1 \.\. context_length, got {stride}, .*={context_length}"
    with pytest.raises(ValueError, match=expected):
        list(scoring_windows(10, context_length=context_length, stride=stride))


# --- batches


@ANY
@given(
    lengths=st.lists(st.integers(0, 40), max_size=6),
    plan=plans(),
    batch_size=st.integers(1, 9),
)
def test_batches_hold_the_targets_of_all_sequences_once(
    lengths: list[int], plan: tuple[int, int, int], batch_size: int
) -> None:
    _, context_length, stride = plan
    # Ids rise by one within a sequence, and no two sequences share any.
    sequences = [np.arange(length) + 1000 * index for index, length in enumerate(lengths)]
    found: Counter[int] = Counter()
    batches = evaluation_batches(
        sequences, context_length=context_length, batch_size=batch_size, stride=stride
    )
    for batch in batches:
        assert len(batch.inputs) == len(batch.targets) <= batch_size
        assert torch.equal(batch.inputs, batch.inputs[:, :1] + torch.arange(batch.inputs.shape[1]))
        assert torch.equal(batch.inputs[:, -batch.targets.shape[1] :] + 1, batch.targets)
        found.update(batch.targets.flatten().tolist())
    assert found == Counter(token for sequence in sequences for token in sequence[1:].tolist())


def test_equal_calls_give_equal_batches() -> None:
    first, second = (
        list(evaluation_batches([TOKENS, TOKENS[:7]], context_length=8, batch_size=3, stride=4))
        for _ in range(2)
    )
    assert len(first) == len(second)
    for batch, other in zip(first, second, strict=True):
        assert torch.equal(batch.inputs, other.inputs)
        assert torch.equal(batch.targets, other.targets)


def test_stride_is_the_context_length_if_not_given() -> None:
    batches = list(evaluation_batches([np.arange(13)], context_length=4, batch_size=2))
    assert sorted(row for batch in batches for row in batch.targets.tolist()) == [
        [1, 2, 3, 4],
        [5, 6, 7, 8],
        [9, 10, 11, 12],
    ]


def test_batches_go_to_the_device() -> None:
    for batch in evaluation_batches([TOKENS], context_length=8, batch_size=3, device="meta"):
        assert batch.inputs.device.type == batch.targets.device.type == "meta"


def test_sequences_are_read_as_they_are_needed() -> None:
    def sequences() -> Iterator[np.ndarray]:
        yield np.arange(9)
        raise RuntimeError("read too far")

    batches = evaluation_batches(sequences(), context_length=4, batch_size=2)
    assert next(batches).targets.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    with pytest.raises(RuntimeError, match="read too far"):
        next(batches)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused(batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size must be at least 1, got {batch_size}"):
        list(evaluation_batches([TOKENS], context_length=4, batch_size=batch_size))


# --- evaluate


@pytest.mark.parametrize("batch_size", [1, 3, 7, 1000])
@pytest.mark.parametrize("stride", [1, 5, 10])
def test_evaluation_is_one_mean_whatever_the_batch_size(
    new_model: NewModel, mean_loss: Loss, batch_size: int, stride: int
) -> None:
    model, tokens = new_model(), torch.from_numpy(TOKENS)
    losses = []
    for target in range(1, len(tokens)):
        # The first ten tokens share a window; others follow in windows that end at a stride.
        stop = target if target <= 10 else min(60, 10 + math.ceil((target - 10) / stride) * stride)
        logits = model(tokens[None, max(0, stop - 10) : target])[0, -1]
        losses.append(functional.cross_entropy(logits, tokens[target]).detach())

    batches = evaluation_batches([TOKENS], context_length=10, batch_size=batch_size, stride=stride)
    evaluation = evaluate(model, batches, loss=mean_loss)
    assert evaluation.tokens == 60
    assert_close(evaluation.nats, float(torch.stack(losses).sum()), rtol=1e-12, atol=0)
    assert_close(evaluation.loss, float(torch.stack(losses).mean()), rtol=1e-12, atol=0)


def test_every_target_weighs_the_same_in_uneven_batches() -> None:
    ids = torch.zeros(1, 10, dtype=torch.int64)
    batches = [Batch(ids, ids), Batch(ids, ids[:, :2])]
    evaluation = evaluate(
        nn.Identity(), batches, loss=lambda _, batch: torch.tensor(float(batch.targets.numel()))
    )
    assert evaluation == Evaluation(nats=10.0 * 10 + 2.0 * 2, tokens=12)


def test_millions_of_small_losses_do_not_drown() -> None:
    ids = torch.zeros(1, 2**20, dtype=torch.int64)
    loss = torch.tensor(0.1, dtype=torch.float32)
    evaluation = evaluate(nn.Identity(), [Batch(ids, ids)] * 100, loss=lambda *_: loss)
    assert_close(evaluation.loss, float(loss), rtol=1e-12, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_comes_back(training: bool) -> None:
    model = nn.Sequential(nn.Dropout())
    model.train(training)
    modes: list[bool] = []

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        modes.extend(module.training for module in model.modules())
        return torch.zeros(())

    ids = torch.zeros(1, 1, dtype=torch.int64)
    evaluate(model, [Batch(ids, ids)], loss=loss)
    assert modes == [False, False]
    assert [module.training for module in model.modules()] == [training, training]


def test_the_mode_of_the_model_comes_back_after_an_error(
    new_model: NewModel, mean_loss: Loss
) -> None:
    def failing_batches() -> Iterator[Batch]:
        yield from evaluation_batches([TOKENS], context_length=10, batch_size=4)
        raise RuntimeError("the disk is gone")

    def failing_loss(model: nn.Module, batch: Batch) -> Tensor:
        raise RuntimeError("the loss is lost")

    model = new_model()
    with pytest.raises(RuntimeError, match="the disk is gone"):
        evaluate(model, failing_batches(), loss=mean_loss)
    assert model.training
    with pytest.raises(RuntimeError, match="the loss is lost"):
        evaluate(model, failing_batches(), loss=failing_loss)
    assert model.training
    with pytest.raises(ValueError, match="got none"):
        evaluate(model, [], loss=mean_loss)
    assert model.training


def test_no_gradient_is_taken_or_touched(new_model: NewModel, mean_loss: Loss) -> None:
    def watched_loss(model: nn.Module, batch: Batch) -> Tensor:
        value = mean_loss(model, batch)
        assert not value.requires_grad
        return value

    model = new_model()
    batches = list(evaluation_batches([TOKENS], context_length=10, batch_size=4))
    evaluate(model, batches, loss=watched_loss)
    assert all(p.grad is None for p in model.parameters())

    mean_loss(model, batches[0]).backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    evaluate(model, batches, loss=watched_loss)
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        assert p.grad is not None
        assert torch.equal(p.grad, gradient)


def test_evaluating_between_steps_changes_nothing(new_model: NewModel, mean_loss: Loss) -> None:
    def train(*, watched: bool) -> list[float]:
        model, losses = new_model(), []
        batches = list(evaluation_batches([TOKENS], context_length=10, batch_size=4))
        for step in train_steps(
            model,
            torch.optim.AdamW(model.parameters()),
            lambda _: batches[:1],
            loss=mean_loss,
            schedule=lambda _: 0.1,
            stop=5,
        ):
            losses.append(float(step.loss))
            if watched:
                evaluate(model, batches, loss=mean_loss)
        return losses

    assert train(watched=True) == train(watched=False)


def test_a_uniform_model_is_as_uncertain_as_its_vocabulary() -> None:
    def uniform_loss(model: nn.Module, batch: Batch) -> Tensor:
        logits = torch.zeros(batch.targets.numel(), 256, dtype=torch.float64)
        return functional.cross_entropy(logits, batch.targets.flatten())

    batches = evaluation_batches([TOKENS], context_length=10, batch_size=4)
    evaluation = evaluate(nn.Identity(), batches, loss=uniform_loss)
    assert_close(evaluation.perplexity, 256.0, rtol=1e-12, atol=0)
    assert_close(evaluation.bits_per_byte(60), 8.0, rtol=1e-12, atol=0)
    # Four bytes a token: a quarter of the bits for each.
    assert_close(evaluation.bits_per_byte(240), 2.0, rtol=1e-12, atol=0)


def test_perplexity_may_be_infinite() -> None:
    assert Evaluation(nats=1e6, tokens=10).perplexity == math.inf
    assert Evaluation(nats=0.0, tokens=10).perplexity == 1


@pytest.mark.parametrize("num_bytes", [0, -1])
def test_a_text_of_no_bytes_is_refused(num_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"num_bytes must be at least 1, got {num_bytes}"):
        Evaluation(nats=1.0, tokens=1).bits_per_byte(num_bytes)


@pytest.mark.parametrize("sequences", [[], [[]], [[1], [2]]], ids=str)
def test_a_text_without_a_target_is_refused(
    new_model: NewModel, mean_loss: Loss, sequences: list[list[int]]
) -> None:
    arrays = [np.array(sequence, np.int64) for sequence in sequences]
    batches = evaluation_batches(arrays, context_length=4, batch_size=2)
    with pytest.raises(ValueError, match="batches must hold at least one target, got none"):
        evaluate(new_model(), batches, loss=mean_loss)


def test_sizes_out_of_range_are_refused_at_the_call() -> None:
    with pytest.raises(ValueError, match="stride"):
        scoring_windows(10, context_length=4, stride=9)
    for changes in ({"batch_size": 0}, {"stride": 5}, {"stride": 0}):
        with pytest.raises(ValueError, match="must be"):
            evaluation_batches([], **({"context_length": 4, "batch_size": 1} | changes))


def test_a_part_in_evaluation_mode_stays_so() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
    model[1].eval()
    batch = Batch(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64))
    evaluate(model, [batch], loss=lambda *_: torch.zeros(()))
    assert [module.training for module in model.modules()] == [True, True, False]


def test_perplexity_is_what_the_exponential_is() -> None:
    assert math.isnan(Evaluation(nats=math.nan, tokens=1).perplexity)
    assert Evaluation(nats=705.0, tokens=1).perplexity == math.exp(705)
