"""A causal language model of a hundred numbers, its loss, and a way around the type checker."""

from collections.abc import Callable, Iterator

import jaxtyping
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from scratch.train import Batch


class TinyLM(nn.Module):
    """Predicts the next token from the mean of the embeddings so far."""

    def __init__(self, *, seed: int = 0, vocab_size: int = 11, width: int = 6) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, dtype=torch.float64, generator=generator))

        self.embedding, self.head = normal(vocab_size, width), normal(vocab_size, width)

    def forward(self, inputs: Tensor) -> Tensor:
        lengths = torch.arange(1, inputs.shape[1] + 1, device=inputs.device)
        means = self.embedding[inputs].cumsum(1) / lengths[:, None]
        return means.tanh() @ self.head.T


@pytest.fixture
def new_model() -> Callable[..., nn.Module]:
    """Return a maker of models, in float64: equal seeds make equal models."""
    return TinyLM


@pytest.fixture
def mean_loss() -> Callable[[nn.Module, Batch], Tensor]:
    """Return the mean cross-entropy of the targets, which belong to the last inputs."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logits = model(batch.inputs)[:, -batch.targets.shape[1] :]
        return functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())

    return loss


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Let wrong types past the type checker of the test run, to the library's own checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
