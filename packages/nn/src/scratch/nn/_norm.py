"""Root-mean-square normalization (Zhang and Sennrich, 2019, arXiv:1910.07467)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ._checks import check_at_least_one
from ._forms import fast_forms_apply, matmul_dtype
from ._fused_norm import FusedRMSNorm


def rms_norm(
    x: Float[Tensor, "*batch d_model"], weight: Float[Tensor, " d_model"], *, eps: float = 1e-5
) -> Float[Tensor, "*batch d_model"]:
    """Return `weight * x / sqrt(mean(x^2) + eps)`, the mean taken over the last axis.

    Works in float32 or wider and answers in the dtype of `x`: in float16, 256 squared
    is already infinite.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    inverse_rms = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * inverse_rms * weight).to(x.dtype)


class RMSNorm(nn.Module):
    """`rms_norm` with a learned weight for each of `d_model` features, starting at one.

    Under autocast the result is rounded to its dtype at once: what reads it would do so, several
    times over.
    """

    def __init__(self, d_model: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        check_at_least_one(d_model=d_model)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        if fast_forms_apply():
            return FusedRMSNorm.apply(x, self.weight, self.eps, matmul_dtype(x))
        return rms_norm(x, self.weight, eps=self.eps)


class NoNorm(nn.Module):
    """No norm: `x` as it is."""

    def __init__(self, d_model: int) -> None:  # noqa: ARG002
        super().__init__()

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return x
