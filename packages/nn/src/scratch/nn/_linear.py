"""The linear map, without a bias."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ._checks import check_at_least_one


def linear(
    x: Float[Tensor, "*batch d_in"], weight: Float[Tensor, "d_out d_in"]
) -> Float[Tensor, "*batch d_out"]:
    """Return `W x` over the last axis."""
    return x @ weight.T


def pad_rows(
    weight: Float[Tensor, "rows d_in"], multiple: int
) -> Float[Tensor, "padded_rows d_in"]:
    """Return `weight` with rows of zeros appended, up to a multiple of `multiple` rows.

    Matrix units of GPUs work on tiles; a product whose size is no multiple of them is slow.
    """
    missing = -weight.shape[0] % multiple
    return (
        weight if not missing else torch.cat((weight, weight.new_zeros(missing, weight.shape[1])))
    )


class Linear(nn.Module):
    """`linear` with a learned weight, started as Glorot and Bengio (2010) propose.

    The weight is normal with variance `2 / (d_in + d_out)`, cut at three standard deviations.
    """

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        check_at_least_one(d_in=d_in, d_out=d_out)
        self.weight = nn.Parameter(torch.empty(d_out, d_in))
        sd = math.sqrt(2 / (d_in + d_out))
        nn.init.trunc_normal_(self.weight, std=sd, a=-3 * sd, b=3 * sd)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return linear(x, self.weight)
