"""The sigmoid linear unit (Hendrycks and Gimpel, 2016, arXiv:1606.08415, section 2)."""

import torch
from jaxtyping import Float
from torch import Tensor


def silu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return `x * sigmoid(x)`."""
    return x * torch.sigmoid(x)
