"""What to watch in training: the size of gradients and weights, and how far an update goes.

All of it stays on the device until somebody asks, so watching does not make anyone wait.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ._norms import norm_of

Named = Iterable[tuple[str, nn.Parameter]]


def first_two_parts(name: str) -> str:
    """Return `"layers.0"` of `"layers.0.attn.q_proj.weight"`; a name of one part is itself."""
    return ".".join(name.split(".")[:2])


@dataclass(frozen=True)
class GradStats:
    """The norms of a group of parameters; the gradient norm is zero where there is none."""

    grad_norm: Float[Tensor, ""]
    weight_norm: Float[Tensor, ""]


@torch.no_grad()
def grad_stats(
    named_parameters: Named, *, group: Callable[[str], str] = first_two_parts
) -> dict[str, GradStats]:
    """Return the L2 norms of gradients and weights for each group of parameters.

    Args:
        named_parameters: as a module names them.
        group: says from the name of a parameter which group it belongs to.
    """
    return {
        name: GradStats(
            grad_norm=norm_of([p.grad for p in members if p.grad is not None]),
            weight_norm=norm_of(members),
        )
        for name, members in _grouped(named_parameters, group).items()
    }


class UpdateRatios:
    """The length of an update over that of the weights it changed, |p' - p| / |p|, by group.

    About 1e-3 is a healthy step of AdamW; 1e-1 tears up what was learned, 1e-6 learns nothing.

    >>> ratios = UpdateRatios(model.named_parameters())  # doctest: +SKIP
    >>> ratios.before()  # doctest: +SKIP
    >>> optimizer.step()  # doctest: +SKIP
    >>> logged = ratios.after()  # doctest: +SKIP

    `before` copies every parameter, so one measures now and then. A group of length zero has the
    ratio inf, or NaN if it did not move.
    """

    def __init__(
        self, named_parameters: Named, *, group: Callable[[str], str] = first_two_parts
    ) -> None:
        self._groups = _grouped(named_parameters, group)
        self._before: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def before(self) -> None:
        """Remember the parameters as they are."""
        self._before = {
            name: [p.detach().clone() for p in members] for name, members in self._groups.items()
        }

    @torch.no_grad()
    def after(self) -> dict[str, Float[Tensor, ""]]:
        """Return the ratio of each group since `before`, and forget what was remembered.

        Raises:
            RuntimeError: if `before` was not called.
        """
        if not self._before:
            raise RuntimeError(
                "before() must be called ahead of the update, and after() once for it"
            )
        old, self._before = self._before, {}
        return {
            name: norm_of([p.detach() - q for p, q in zip(members, old[name], strict=True)])
            / norm_of(old[name])
            for name, members in self._groups.items()
        }


def _grouped(named_parameters: Named, group: Callable[[str], str]) -> dict[str, list[nn.Parameter]]:
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in named_parameters:
        groups.setdefault(group(name), []).append(parameter)
    return groups
