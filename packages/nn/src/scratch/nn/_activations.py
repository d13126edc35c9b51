"""Activations: SiLU (Hendrycks and Gimpel, 2016, arXiv:1606.08415, section 2), squared ReLU."""

import torch
from jaxtyping import Float
from torch import Tensor


def silu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return `x * sigmoid(x)`."""
    return x * torch.sigmoid(x)


def relu_squared(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return `max(x, 0)^2` (So et al., 2021, arXiv:2109.08668, Primer)."""
    return x.clamp(min=0).square()
