"""Feed-forward networks: SwiGLU (Shazeer, 2020, arXiv:2002.05202, eq. 6), and two without gate."""

from jaxtyping import Float
from torch import Tensor, nn

from ._activations import relu_squared, silu
from ._forms import fast_forms_apply
from ._fused_gate import FusedSiLUGate
from ._linear import Linear, linear


def swiglu(
    x: Float[Tensor, "*batch d_model"],
    w1: Float[Tensor, "d_ff d_model"],
    w2: Float[Tensor, "d_model d_ff"],
    w3: Float[Tensor, "d_ff d_model"],
) -> Float[Tensor, "*batch d_model"]:
    """Return `W2 (silu(W1 x) * W3 x)`."""
    return linear(silu(linear(x, w1)) * linear(x, w3), w2)


def silu_feed_forward(
    x: Float[Tensor, "*batch d_model"],
    w1: Float[Tensor, "d_ff d_model"],
    w2: Float[Tensor, "d_model d_ff"],
) -> Float[Tensor, "*batch d_model"]:
    """Return `W2 silu(W1 x)`."""
    return linear(silu(linear(x, w1)), w2)


def relu_squared_feed_forward(
    x: Float[Tensor, "*batch d_model"],
    w1: Float[Tensor, "d_ff d_model"],
    w2: Float[Tensor, "d_model d_ff"],
) -> Float[Tensor, "*batch d_model"]:
    """Return `W2 max(W1 x, 0)^2`."""
    return linear(relu_squared(linear(x, w1)), w2)


class SwiGLU(nn.Module):
    """`swiglu` with learned weights. At `d_ff = 8/3 d_model` it has as many as a plain network."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.w1 = Linear(d_model, d_ff)
        self.w2 = Linear(d_ff, d_model)
        self.w3 = Linear(d_model, d_ff)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        if fast_forms_apply():
            return self.w2(FusedSiLUGate.apply(self.w1(x), self.w3(x)))
        return swiglu(x, self.w1.weight, self.w2.weight, self.w3.weight)


class SiLUFeedForward(nn.Module):
    """`silu_feed_forward` with learned weights, usually at `d_ff = 4 d_model`."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.w1 = Linear(d_model, d_ff)
        self.w2 = Linear(d_ff, d_model)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return silu_feed_forward(x, self.w1.weight, self.w2.weight)


class ReLUSquaredFeedForward(nn.Module):
    """`relu_squared_feed_forward` with learned weights, usually at `d_ff = 4 d_model`."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.w1 = Linear(d_model, d_ff)
        self.w2 = Linear(d_ff, d_model)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return relu_squared_feed_forward(x, self.w1.weight, self.w2.weight)
