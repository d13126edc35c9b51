"""The nearest orthogonal matrix, by Newton-Schulz iteration (Jordan et al., 2024).

If G = U S V^T, an odd polynomial of G acts on S alone. One that draws (0, 1] towards 1, applied
again and again to G / |G|, leaves U V^T, by nothing but products, and therefore in bfloat16:

    A = X X^T,  B = b A + c A A,  X = a X + B X
"""

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Triple = tuple[float, float, float]
Coefficients = Literal["jordan", "polar_express"]
Method = Literal["auto", "plain", "gram"]

_SAFETY = 1.01  # keeps the steep polynomials below 1 where bfloat16 has put a singular value above
COEFFICIENTS: dict[Coefficients, tuple[Triple, ...]] = {
    # One triple for all steps: steep at zero, and content with singular values of 0.7 to 1.2.
    "jordan": 5 * ((3.4445, -4.7750, 2.0315),),
    # For each step the best triple for what the ones before leave of [0.001, 1]: Amsel et al.
    # (2025, arXiv:2505.16932), algorithm 1.
    "polar_express": tuple(
        (a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5)
        for a, b, c in (
            (8.28721201814563, -23.595886519098837, 17.300387312530933),
            (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
            (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
            (3.3184196573706015, -2.488488024314874, 0.51004894012372),
            (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
        )
    ),
}

_RESTARTS = (1, 3)  # after so many steps the Gram form computes X, and A from it
_GRAM_RATIO = 2  # of the sides; from there on, smaller products outweigh that there are more
_PANELS, _LEAST_ROWS = 4, 128  # of a product known to be symmetric, on a CPU


def orthogonalize(
    matrix: Float[Tensor, "*batch rows columns"],
    *,
    coefficients: Coefficients | Sequence[Triple] = "jordan",
    method: Method = "auto",
    dtype: torch.dtype = torch.bfloat16,
) -> Float[Tensor, "*batch rows columns"]:
    """Return roughly U V^T, where `matrix` is U S V^T; zero where it is zero. In its dtype.

    Singular values far below the largest are on the way up and not there: five steps lift one
    thousandth of the norm to about 0.4 by `"jordan"`, and to about 0.9 by `"polar_express"`.

    Args:
        matrix: a matrix, or any number of them, each for itself.
        coefficients: `"jordan"`, `"polar_express"`, or a triple (a, b, c) for each step.
        method: of `newton_schulz`.
        dtype: in which the products are computed; errors of a per cent do not matter to Muon.

    Raises:
        ValueError: if `coefficients` or `method` is unknown.
    """
    triples = triples_of(coefficients)
    wide = matrix.to(torch.promote_types(matrix.dtype, torch.float32), copy=True)
    stack = normalize_(wide.reshape(-1, *matrix.shape[-2:])).to(dtype)
    return newton_schulz(stack, triples, method=method).to(matrix.dtype).reshape(matrix.shape)


def newton_schulz(
    x: Float[Tensor, "*batch rows columns"],
    triples: Sequence[Triple],
    *,
    method: Method = "auto",
) -> Float[Tensor, "*batch rows columns"]:
    """Return `x` after a step of the iteration for each of `triples`; no |x| may be far above 1.

    `"plain"` multiplies X itself in every step. `"gram"` follows A = X X^T and the polynomial of A
    that X is to be multiplied by, squares of the smaller side, and multiplies X now and then. The
    two are equal but for rounding; `"auto"` takes `"gram"` for matrices that are far from square.

    Raises:
        ValueError: if `method` is unknown.
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    rows, columns = x.shape[-2:]
    if rows > columns:
        return newton_schulz(x.mT, triples, method=method).mT
    steps = len(triples)
    gram = method == "gram" or (method == "auto" and columns >= _GRAM_RATIO * rows)
    restarts = [step for step in _RESTARTS if step < steps] if gram else range(1, steps)
    segments = [triples[start:end] for start, end in pairwise([0, *restarts, steps])]
    if x.ndim == 2:
        return _iterate(x, segments)
    stack = x.reshape(-1, rows, columns)
    if x.device.type == "cpu":  # gains nothing from a batch, and loses its cache
        stack = torch.stack([_iterate(one, segments) for one in stack]) if len(stack) else stack
    else:
        stack = _iterate(stack, segments)
    return stack.reshape(x.shape)


def triples_of(coefficients: str | Sequence[Triple]) -> tuple[Triple, ...]:
    """Return the triples of each step, by their name or as given."""
    if not isinstance(coefficients, str):
        return tuple(coefficients)
    if coefficients not in COEFFICIENTS:
        known = ", ".join(COEFFICIENTS)
        raise ValueError(f"coefficients must be one of {known}, or triples, got {coefficients!r}")
    return COEFFICIENTS[coefficients]


def normalize_(stack: Tensor) -> Tensor:
    """Divide every matrix of `stack`, in float32 or wider, by its Frobenius norm, in place.

    By the largest entry first: squares of very small or large ones would leave the range.
    """
    if not stack.numel():
        return stack
    tiny = torch.finfo(stack.dtype).tiny
    largest = torch.maximum(stack.amax((-2, -1)), -stack.amin((-2, -1))).clamp_min(tiny)
    stack.div_(largest[:, None, None])
    norms = torch.stack(torch._foreach_norm(list(stack.unbind())))
    return stack.div_(norms.clamp_min(tiny)[:, None, None])


def _iterate(x: Tensor, segments: Sequence[Sequence[Triple]]) -> Tensor:
    for segment in segments:
        x = _segment(x, segment)
    return x


def _segment(x: Tensor, triples: Sequence[Triple]) -> Tensor:
    """Return `x` after the steps `triples`, multiplied once.

    With P = a I + B, a step makes P X of X and P A P of A. The product of the P is kept as q I + S,
    for in the narrow dtype the identity would swallow what is added to it. All of these are
    polynomials of A: they are symmetric and commute. Their rounding errors however grow with each
    step, in bfloat16 out of bounds where X is far from orthogonal; hence two steps at most.
    """
    a, b, c = triples[0]
    gram = _symmetric(x, x.mT)
    polynomial = _symmetric(gram, gram, add=gram, beta=b, alpha=c)
    q, s = a, polynomial
    for next_a, next_b, next_c in triples[1:]:
        half = _symmetric(polynomial, gram, add=gram, beta=a)
        gram = _symmetric(polynomial, half, add=half, beta=a)
        a, polynomial = next_a, _symmetric(gram, gram, add=gram, beta=next_b, alpha=next_c)
        whole = s.clone()
        whole.diagonal(dim1=-2, dim2=-1).add_(q)
        q, s = a * q, _symmetric(polynomial, whole, add=s, beta=a)
    return _product(s, x, add=x, beta=q)


def _product(
    x: Tensor, y: Tensor, *, add: Tensor | None = None, beta: float = 1.0, alpha: float = 1.0
) -> Tensor:
    """Return `alpha x y + beta add`, rounded once; for matrices or stacks of them."""
    if add is None:
        return x @ y
    multiply_add = torch.addmm if x.ndim == 2 else torch.baddbmm
    return multiply_add(add, x, y, beta=beta, alpha=alpha)


def _symmetric(
    x: Tensor, y: Tensor, *, add: Tensor | None = None, beta: float = 1.0, alpha: float = 1.0
) -> Tensor:
    """Return `_product` if it is known to be symmetric: the lower triangle, in panels of rows."""
    rows = x.shape[-2]
    panels = min(_PANELS, rows // _LEAST_ROWS)
    if x.ndim > 2 or panels < 2 or x.device.type != "cpu":
        return _product(x, y, add=add, beta=beta, alpha=alpha)
    result = x.new_empty(rows, rows)
    height = -(-rows // panels)
    for start in range(0, rows, height):
        end = min(start + height, rows)
        corner = None if add is None else add[start:end, :end]
        panel = _product(x[start:end], y[:, :end], add=corner, beta=beta, alpha=alpha)
        result[start:end, :end] = panel
        result[:start, start:end] = panel[:, :start].mT
    return result
