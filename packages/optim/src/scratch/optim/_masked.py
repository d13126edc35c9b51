"""What the optimizers share: a step that a device can call off without asking the host.

Whether the gradients are finite is known on the device first. `masked_step` takes that answer as a
tensor and keeps the old parameters and state where it is False, so nobody waits for it.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn

Params = Iterable[nn.Parameter] | Iterable[dict[str, Any]] | Iterable[tuple[str, nn.Parameter]]


class MaskedOptimizer(torch.optim.Optimizer):
    """An optimizer whose `update` says what the next parameter and state are."""

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
        """Restore what `state_dict` returned.

        Raises:
            ValueError: if it comes from another kind of optimizer, or does not fit the parameters.
        """
        for saved, own in zip(state_dict["param_groups"], self.param_groups, strict=False):
            if saved.keys() != own.keys():
                raise ValueError(
                    f"state_dict must be of {type(self).__name__}, whose groups have "
                    f"{', '.join(own)}; got {', '.join(saved)}"
                )
        super().load_state_dict(state_dict)
        for parameter, state in cast("dict[Tensor, dict[str, Tensor]]", self.state).items():
            for name, value in state.items():
                state[name] = value.to(parameter.device)

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
