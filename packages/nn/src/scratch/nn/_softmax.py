"""Softmax and the logarithm of a sum of exponentials, safe from overflow.

Both subtract the maximum m first, which changes neither: exp(x - m) / sum exp(x - m) has the factor
exp(-m) above and below. The result does not depend on m, so m is detached from the gradient.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def softmax(x: Float[Tensor, "*shape"], dim: int = -1) -> Float[Tensor, "*shape"]:
    """Return `exp(x) / sum(exp(x))` along `dim`.

    Works in float32 or wider and answers in the dtype of `x`.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    exponentials = torch.exp(wide - wide.amax(dim, keepdim=True).detach())
    return (exponentials / exponentials.sum(dim, keepdim=True)).to(x.dtype)


def log_sum_exp(x: Float[Tensor, "*shape"], dim: int = -1) -> Float[Tensor, "*reduced"]:
    """Return `log(sum(exp(x)))` along `dim`, which is removed, in float32 or wider."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    # Clamped: where all of `x` is -inf, so is the result, and -inf - -inf is not a number.
    maximum = wide.amax(dim, keepdim=True).detach().clamp(min=torch.finfo(wide.dtype).min)
    return torch.exp(wide - maximum).sum(dim).log() + maximum.squeeze(dim)
