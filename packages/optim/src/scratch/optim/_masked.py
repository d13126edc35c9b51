"""What the optimizers share: a step that a device can call off without asking the host.

Whether the gradients are finite is known on the device first. `masked_step` takes that answer as a
tensor and keeps the old parameters and state where it is False, so nobody waits for it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn

Params = Iterable[nn.Parameter] | Iterable[dict[str, Any]] | Iterable[tuple[str, nn.Parameter]]


class MaskedOptimizer(torch.optim.Optimizer, ABC):
    """An optimizer whose `update` says what the next parameter and state are.

    `state_names` are the names of the state that it keeps for each parameter.
    """

    state_names: frozenset[str]

    @abstractmethod
    def update(
        self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the next parameter and its next state, changing neither in place.

        `state` is empty at the first update.
        """

    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, closure: Callable[[], Any] | None = None
    ) -> Any:
        """Update every parameter that has a gradient; return what `closure` returns, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._step(None)
        return loss

    def masked_step(self, finite: Bool[Tensor, ""]) -> None:
        """Do as `step` where `finite` is True, and nothing where it is False.

        `finite` stays on its device: the call does not wait for its value.
        """
        self._step(finite)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. The state keeps its own dtype.

        Raises:
            ValueError: if it comes from another kind of optimizer, or does not fit the parameters.
        """
        self._check_fit(state_dict)
        super().load_state_dict(state_dict)
        for parameter, state in _by_parameter(state_dict, self.param_groups):
            self.state[parameter] = {
                name: value.to(parameter.device, copy=True) for name, value in state.items()
            }

    def _check_fit(self, state_dict: dict[str, Any]) -> None:
        kind = type(self).__name__
        for group in state_dict["param_groups"]:
            if missing := self.defaults.keys() - group.keys():
                raise ValueError(
                    f"state_dict must be of {kind}, got groups without {', '.join(sorted(missing))}"
                )
        for parameter, state in _by_parameter(state_dict, self.param_groups):
            if state.keys() != self.state_names:
                raise ValueError(
                    f"state_dict must be of {kind}, whose state is {sorted(self.state_names)}, "
                    f"got {sorted(state)}"
                )
            for name, value in state.items():
                if value.shape not in (parameter.shape, ()):
                    raise ValueError(
                        f"state_dict must fit the parameters, got {name} of shape "
                        f"{tuple(value.shape)} for a parameter of shape {tuple(parameter.shape)}"
                    )

    @torch.no_grad()
    def _step(self, finite: Tensor | None) -> None:
        for group in self.param_groups:
            for parameter in cast("list[nn.Parameter]", group["params"]):
                if parameter.grad is None:
                    continue
                old = cast("dict[str, Tensor]", self.state[parameter])
                value, new = self.update(parameter, parameter.grad, old, group)
                if finite is not None:
                    value = torch.where(finite, value, parameter)
                    new = {
                        name: torch.where(finite, tensor, old.get(name, torch.zeros_like(tensor)))
                        for name, tensor in new.items()
                    }
                parameter.copy_(value)
                self.state[parameter] = new


def check_not_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")


def widen(x: Tensor) -> Tensor:
    """Return `x` in float32 or wider, in which an update is computed."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _by_parameter(
    state_dict: dict[str, Any], groups: list[dict[str, Any]]
) -> Iterator[tuple[nn.Parameter, dict[str, Tensor]]]:
    """Yield each parameter that has some state in `state_dict`, which numbers them in order."""
    numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
    parameters = [parameter for group in groups for parameter in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=False):
        if number in state_dict["state"]:
            yield parameter, state_dict["state"][number]
