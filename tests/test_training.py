"""All parts together: what learns by heart, and what resumes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from scratch.nn import TransformerConfig, TransformerLM, fast_matmul
from scratch.optim import AdamW, Hybrid, WarmupCosine, clip_grad_norm, hybrid
from scratch.train import (
    Batch,
    MaskedOptimizer,
    Optimizer,
    WindowSampler,
    load_checkpoint,
    save_checkpoint,
    train_steps,
    window_batch,
)

VOCAB, CONTEXT = 97, 32
TOKENS = np.random.default_rng(0).integers(0, VOCAB, 4000)
SAMPLER = WindowSampler(num_tokens=len(TOKENS), context_length=CONTEXT, batch_size=8, seed=1)


def new_run(kind: str = "adamw") -> tuple[TransformerLM, AdamW | Hybrid]:
    torch.manual_seed(3)
    config = TransformerConfig(
        vocab_size=VOCAB, context_length=CONTEXT, d_model=64, num_layers=2, num_heads=4, d_ff=128
    )
    model = TransformerLM(config)
    if kind == "adamw":
        return model, AdamW(model.parameters(), lr=0.0, weight_decay=0.01)
    return model, hybrid(model.named_parameters(), lr=1e-2, weight_decay=0.01)


def loss(model: TransformerLM, batch: Batch) -> Tensor:
    return model.loss(batch.inputs, batch.targets)


def micro_batches(done: int) -> list[Batch]:
    starts = SAMPLER.starts(done)
    return [window_batch(TOKENS, part, CONTEXT) for part in (starts[:5], starts[5:])]


def train(model: TransformerLM, optimizer: Optimizer, start: int, stop: int) -> list[float]:
    steps = train_steps(
        model,
        optimizer,
        micro_batches,
        loss=loss,
        schedule=WarmupCosine(peak=1e-2, floor=1e-3, warmup_steps=3, total_steps=12),
        clip=lambda parameters: clip_grad_norm(parameters, 1.0),
        context=fast_matmul,
        start=start,
        stop=stop,
    )
    return [float(step.loss) for step in steps]


def test_one_batch_is_learned_by_heart() -> None:
    model, optimizer = new_run()
    batch = micro_batches(0)
    steps = train_steps(
        model,
        optimizer,
        lambda _: batch,
        loss=loss,
        schedule=WarmupCosine(peak=1e-2, floor=1e-3, warmup_steps=10, total_steps=150),
        clip=lambda parameters: clip_grad_norm(parameters, 1.0),
        stop=150,
    )
    losses = [float(step.loss) for step in steps]
    assert losses[0] > 4  # chance is log(97) = 4.57
    assert losses[-1] < 0.02


@pytest.mark.parametrize("kind", ["adamw", "hybrid"])
def test_the_optimizers_keep_what_training_asks_of_them(kind: str) -> None:
    _, optimizer = new_run(kind)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert isinstance(optimizer, Optimizer)
    assert isinstance(optimizer, MaskedOptimizer)


@pytest.mark.parametrize("kind", ["adamw", "hybrid"])
@pytest.mark.parametrize("threads", [1, 2])
def test_resuming_equals_never_stopping(threads: int, kind: str, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model, optimizer = new_run(kind)
        expected = train(model, optimizer, 0, 12)

        losses = []
        for start, stop in ((0, 5), (5, 6), (6, 12)):
            resumed, its_optimizer = new_run(kind)
            if start:
                assert load_checkpoint(tmp_path / "run.pt", resumed, its_optimizer) == start
            losses += train(resumed, its_optimizer, start, stop)
            save_checkpoint(resumed, its_optimizer, stop, tmp_path / "run.pt")
    finally:
        torch.set_num_threads(before)
    assert losses == expected
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
