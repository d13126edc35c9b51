"""Which keys a query of self-attention may see."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ._checks import check_at_least_one


def causal_mask(seq: int, *, device: torch.device | None = None) -> Bool[Tensor, "seq seq"]:
    """Return True where key <= query: each position sees itself and what came before."""
    return torch.ones(seq, seq, dtype=torch.bool, device=device).tril()


class Visibility:
    """Causal, perhaps no further back than a window, perhaps no further than the own document.

    Args:
        window: how many positions a query sees, itself included; `None` for all before it (Beltagy
            et al., 2020, arXiv:2004.05150).
        documents: a number for each position; a query sees the positions of its own number only.
            `None` if each sequence is one document.

    Raises:
        ValueError: if `window` is below 1.
    """

    def __init__(
        self, window: int | None = None, documents: Int[Tensor, "*batch seq"] | None = None
    ) -> None:
        if window is not None:
            check_at_least_one(window=window)
        self.window, self.documents = window, documents

    def of(self, documents: Int[Tensor, "*batch seq"]) -> "Visibility":
        """Return the same, within these documents."""
        return Visibility(self.window, documents)

    def mask(self, seq: int, *, device: torch.device | None = None) -> Bool[Tensor, "*batch q k"]:
        """Return True where a query (row) sees a key (column); with one axis for all heads.

        The shape is `(seq, seq)`, or `(*batch, 1, seq, seq)` if there are documents.
        """
        mask = causal_mask(seq, device=device)
        if self.window is not None:
            mask = mask & ~mask.tril(-self.window)
        if self.documents is None:
            return mask
        same = self.documents[..., :, None] == self.documents[..., None, :]
        return (mask & same).unsqueeze(-3)


EVERYTHING = Visibility()
