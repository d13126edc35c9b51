"""Rotary position embedding (Su et al., 2021, arXiv:2104.09864, eq. 15 and 34).

Each pair of neighbouring features is turned by an angle proportional to the token's position. The
inner product of a query and a key then depends on the distance between them, not on where they are.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ._checks import as_indices, check_at_least_one
from ._forms import fast_forms_apply
from ._fused_rotary import FusedRotation


def rotary_tables(
    d_head: int,
    max_seq_len: int,
    *,
    theta: int | float = 10_000.0,
    stretch: int | float = 1.0,
    device: torch.device | None = None,
) -> tuple[Float[Tensor, "max_seq_len half"], Float[Tensor, "max_seq_len half"]]:
    """Return cosine and sine of `position / stretch * theta^(-2k/d_head)`, k = 0 .. d_head/2 - 1.

    The angles are made in float64 on the CPU, the tables are float32: in float32 an angle of some
    thousand radians would be off in its fourth decimal.

    Raises:
        ValueError: if `d_head` is odd, `max_seq_len` below 1, `theta` or `stretch` not positive.
    """
    check_at_least_one(d_head=d_head, max_seq_len=max_seq_len)
    if d_head % 2:
        raise ValueError(f"d_head must be even, to be rotated in pairs, got {d_head}")
    for name, value in (("theta", theta), ("stretch", stretch)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive number, got {value}")
    exponents = torch.arange(0, d_head, 2, dtype=torch.float64, device="cpu") / d_head
    positions = torch.arange(max_seq_len, dtype=torch.float64, device="cpu")
    angles = positions[:, None] / stretch * theta**-exponents
    device = torch.get_default_device() if device is None else device
    return angles.cos().float().to(device), angles.sin().float().to(device)


def ntk_theta(theta: int | float, factor: int | float, d_head: int) -> float:
    """Return the base that turns the slowest pair slower by `factor`, the fastest not at all.

    `theta factor^(d / (d - 2))`: pair k turns by `theta^(-2k/d)`, so the last, k = d/2 - 1, by
    `theta^(-(d-2)/d) / factor` (bloc97, 2023, NTK-aware scaling). With one pair, nothing is slower.
    """
    return theta if d_head <= 2 else theta * factor ** (d_head / (d_head - 2))


def rotate_pairs(
    x: Float[Tensor, "*batch seq d_head"],
    cos: Float[Tensor, "*#batch seq half"],
    sin: Float[Tensor, "*#batch seq half"],
) -> Float[Tensor, "*batch seq d_head"]:
    """Rotate each pair `(x_2k, x_2k+1)` by the angle whose cosine and sine are given for it.

    Works in float32 or wider and answers in the dtype of `x`.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    even, odd = wide[..., 0::2], wide[..., 1::2]
    rotated = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return rotated.flatten(-2).to(x.dtype)


class RotaryEmbedding(nn.Module):
    """`rotate_pairs` with tables for positions `0 .. max_seq_len - 1`.

    The tables are no parameters and never saved. They stay float32 when the model is cast. Made on
    the meta device they hold nothing until `to_empty` makes them anew, whatever is loaded.

    Raises:
        ValueError: as `rotary_tables`.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        d_head: int,
        max_seq_len: int,
        *,
        theta: int | float = 10_000.0,
        stretch: int | float = 1.0,
    ) -> None:
        super().__init__()
        self.d_head, self.max_seq_len = d_head, max_seq_len
        self.theta, self.stretch = theta, stretch
        cos, sin = rotary_tables(d_head, max_seq_len, theta=theta, stretch=stretch)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(
        self,
        x: Float[Tensor, "*batch seq d_head"],
        positions: Int[Tensor, "*#batch seq"] | None = None,
    ) -> Float[Tensor, "*batch seq d_head"]:
        """Rotate `x` by its `positions`, by default `0 .. seq - 1`.

        Raises:
            ValueError: if `x` has not `d_head` features, or a position is not below `max_seq_len`
                (given ones are checked on the CPU).
        """
        if x.shape[-1] != self.d_head:
            raise ValueError(f"x must have d_head={self.d_head} features, got {x.shape[-1]}")
        seq = x.shape[-2]
        rule = f"max_seq_len is {self.max_seq_len}"
        if positions is None:
            if seq > self.max_seq_len:
                raise ValueError(
                    f"positions must be in 0 .. {self.max_seq_len - 1} ({rule}), got {seq - 1}"
                )
            cos, sin = self.cos[:seq], self.sin[:seq]
        else:
            rows = as_indices(positions, self.max_seq_len, name="positions", rule=rule)
            cos, sin = self.cos[rows], self.sin[rows]
        return FusedRotation.apply(x, cos, sin) if fast_forms_apply() else rotate_pairs(x, cos, sin)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RotaryEmbedding":
        super()._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType]
        # Made anew, the tables follow the model to its device, but not to its dtype.
        self.cos, self.sin = rotary_tables(
            self.d_head,
            self.max_seq_len,
            theta=self.theta,
            stretch=self.stretch,
            device=self.cos.device,
        )
        return self


class NoPosition(nn.Module):
    """No position embedding (NoPE; Kazemnejad et al., 2023, arXiv:2305.19466): `x` as it is.

    A causal model can still tell positions apart, by how much each token may attend to.
    """

    def forward(
        self,
        x: Float[Tensor, "*batch seq d_head"],
        positions: Int[Tensor, "*#batch seq"] | None = None,  # noqa: ARG002
    ) -> Float[Tensor, "*batch seq d_head"]:
        return x
