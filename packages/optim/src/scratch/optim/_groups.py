"""Parameter groups: which parameters decay."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from ._masked import check_not_negative


def decay_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], *, weight_decay: float
) -> list[dict[str, Any]]:
    """Return groups for an optimizer: matrices decay, vectors and scalars do not.

    Decay keeps the size of a matrix in check; the gain of a norm or a bias is small by itself, and
    pulling it towards zero only works against it. Parameters that need no gradient are left out.

    >>> AdamW(decay_groups(model.named_parameters(), weight_decay=0.1), lr=1e-3)  # doctest: +SKIP

    Raises:
        ValueError: if `weight_decay` is negative or nothing needs a gradient.
    """
    check_not_negative(weight_decay=weight_decay)
    trainable = [parameter for _, parameter in named_parameters if parameter.requires_grad]
    if not trainable:
        raise ValueError("named_parameters must hold at least one that requires a gradient")
    matrices = [parameter for parameter in trainable if parameter.ndim >= 2]
    vectors = [parameter for parameter in trainable if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
