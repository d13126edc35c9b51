"""The embedding: a learned vector for each token id."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ._checks import as_indices, check_at_least_one


def embedding(
    ids: Int[Tensor, "*batch"], weight: Float[Tensor, "vocab d_model"]
) -> Float[Tensor, "*batch d_model"]:
    """Return row `ids[...]` of `weight` for each id.

    Raises:
        TypeError: if `ids` are not whole numbers.
        ValueError: if an id is not in `0 .. vocab - 1` (checked on the CPU).
    """
    vocab, d_model = weight.shape
    rows = as_indices(ids, vocab, name="ids", rule="the vocabulary")
    # `weight[ids]` says the same, but its gradient adds rows in an order that threads decide.
    return weight.index_select(0, rows.flatten()).view(*ids.shape, d_model)


class Embedding(nn.Module):
    """`embedding` with a learned weight, normal with standard deviation `sd`, cut at three."""

    def __init__(self, vocab_size: int, d_model: int, *, sd: float = 1.0) -> None:
        super().__init__()
        check_at_least_one(vocab_size=vocab_size, d_model=d_model)
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))
        nn.init.trunc_normal_(self.weight, std=sd, a=-3 * sd, b=3 * sd)

    def forward(self, ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch d_model"]:
        return embedding(ids, self.weight)
