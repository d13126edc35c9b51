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

from ._shards import local, local_gradient

Params = Iterable[nn.Parameter] | Iterable[dict[str, Any]] | Iterable[tuple[str, nn.Parameter]]
State = dict[str, Tensor]


class MaskedOptimizer(torch.optim.Optimizer, ABC):
    """An optimizer whose `update` says what the next parameter and state are.

    `update` is the reference, written as the formula: one parameter after the other, in new
    tensors. A faster form overrides `update_all`, which does the same to all parameters of a group.

    `state_names` are the names of the state that it keeps for each parameter, `counter_names` those
    of them that are one number. A counter is never changed in place: parameters may share one.
    """

    state_names: frozenset[str]
    counter_names: frozenset[str] = frozenset()

    @abstractmethod
    def initial_state(self, parameter: Tensor) -> State:
        """Return the state of `parameter` before its first update."""

    @abstractmethod
    def update(
        self, parameter: Tensor, gradient: Tensor, state: State, group: dict[str, Any]
    ) -> tuple[Tensor, State]:
        """Return the next parameter and its next state, changing neither in place."""

    def update_all(
        self,
        parameters: list[Tensor],
        states: list[State],
        group: dict[str, Any],
        finite: Tensor | None,
    ) -> None:
        """Change `parameters` of `group`, which all have gradients, and their `states` in place.

        Where `finite` is False nothing may change; None stands for True. Of parameters that are
        spread over processes, the local parts are updated.
        """
        for parameter, state in zip(parameters, states, strict=True):
            old = {name: local(tensor) for name, tensor in state.items()}
            value, new = self.update(local(parameter), local_gradient(parameter), old, group)
            if finite is not None:
                value = torch.where(finite, value, local(parameter))
                new = {name: torch.where(finite, new[name], old[name]) for name in new}
            local(parameter).copy_(value)
            for name, tensor in new.items():
                if name in self.counter_names:
                    state[name] = tensor
                else:
                    old[name].copy_(tensor)

    def complete(self, parameter: Tensor, state: State, fresh: dict[Any, Tensor]) -> State:
        """Return `state` with what it lacks; those that begin together share `fresh` counters."""
        initial = self.initial_state(parameter)
        for name in self.counter_names & initial.keys():
            initial[name] = fresh.setdefault((name, parameter.device), initial[name])
        return {**initial, **state}

    def names_for(self, parameter: Tensor) -> frozenset[str]:
        """Return the names of the state of `parameter`: `state_names`, or more."""
        del parameter
        return self.state_names

    def check_group(self, group: dict[str, Any]) -> None:
        """Refuse a group that this optimizer cannot update, with a ValueError."""

    def rule_of(self, group: dict[str, Any]) -> "MaskedOptimizer":
        """Return the optimizer whose update `group` gets: this one, unless several are combined."""
        del group
        return self

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take on a group; what it does not set is as for the others.

        Raises:
            ValueError: if the optimizer cannot update it.
        """
        super().add_param_group(param_group)
        try:
            self.check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

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

    def state_dict(self) -> dict[str, Any]:
        """Return the state and the groups as torch does, each parameter with counters of its own.

        What is loaded in place, as by `torch.distributed.checkpoint`, may then differ among them.
        """
        saved = super().state_dict()
        saved["state"] = {
            number: {name: self._apart(name, tensor) for name, tensor in state.items()}
            for number, state in saved["state"].items()
        }
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, in the dtype in which it was saved.

        The next step brings it to that of the update, if the parameters have another by now.

        Raises:
            ValueError: if it comes from another kind of optimizer, or does not fit the parameters.
        """
        self._check_fit(state_dict)
        super().load_state_dict(state_dict)
        counters: dict[Any, Tensor] = {}
        for _, parameter, state in _by_parameter(state_dict, self.param_groups):
            loaded = {name: value.to(parameter.device, copy=True) for name, value in state.items()}
            for name in self.counter_names & loaded.keys():
                loaded[name] = _share(loaded[name], counters)
            self.state[parameter] = loaded

    def _bring_to_width(self, parameter: Tensor, state: State) -> None:
        """Give `state` the dtype of the update, which changes where a model is cast."""
        for name in state.keys() - self.counter_names:
            if state[name].dtype != wide_dtype(parameter):
                state[name] = state[name].to(wide_dtype(parameter))

    def _apart(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.clone() if name in self.counter_names else tensor

    def _check_fit(self, state_dict: dict[str, Any]) -> None:
        kind = type(self).__name__
        for group, own in zip(state_dict["param_groups"], self.param_groups, strict=False):
            if group.get("rule") != own.get("rule"):
                raise ValueError(
                    f"state_dict must be of {kind} with the same rules, "
                    f"got {group.get('rule')!r} for {own.get('rule')!r}"
                )
            # Torch puts a default of its own among ours when it loads or copies an optimizer.
            asked = self.rule_of(own).defaults.keys() - {"differentiable"}
            if missing := asked - group.keys():
                raise ValueError(
                    f"state_dict must be of {kind}, got groups without {', '.join(sorted(missing))}"
                )
        for group, parameter, state in _by_parameter(state_dict, self.param_groups):
            rule = self.rule_of(group)
            if not rule.state_names <= state.keys() <= rule.names_for(parameter):
                raise ValueError(
                    f"state_dict must be of {kind}, whose state is "
                    f"{sorted(rule.names_for(parameter))}, got {sorted(state)}"
                )
            for name, value in state.items():
                if value.shape not in (parameter.shape, ()):
                    raise ValueError(
                        f"state_dict must fit the parameters, got {name} of shape "
                        f"{tuple(value.shape)} for a parameter of shape {tuple(parameter.shape)}"
                    )

    @torch.no_grad()
    def _step(self, finite: Tensor | None) -> None:
        fresh: dict[Any, Tensor] = {}
        for group in self.param_groups:
            parameters = [p for p in cast("list[Tensor]", group["params"]) if p.grad is not None]
            if not parameters:
                continue
            rule = self.rule_of(group)
            for parameter in parameters:
                state = cast("State", self.state[parameter])
                if len(state) < len(rule.names_for(parameter)):
                    state = self.state[parameter] = rule.complete(parameter, state, fresh)
                self._bring_to_width(parameter, state)
            states = [cast("State", self.state[parameter]) for parameter in parameters]
            rule.update_all(parameters, states, group, finite)


def check_not_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")


def widen(x: Tensor) -> Tensor:
    """Return `x` in float32 or wider, in which an update is computed."""
    return x.to(wide_dtype(x))


def wide_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _share(counter: Tensor, seen: dict[Any, Tensor]) -> Tensor:
    """Return the tensor among `seen` that equals `counter`, so that equals are counted once."""
    if counter.device.type == "meta":
        return counter  # it has no value
    return seen.setdefault((counter.device, counter.item()), counter)


def _by_parameter(
    state_dict: dict[str, Any], groups: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], nn.Parameter, State]]:
    """Yield each parameter that has some state in `state_dict`, which numbers them in order."""
    numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
    parameters = [(group, parameter) for group in groups for parameter in group["params"]]
    for number, (group, parameter) in zip(numbers, parameters, strict=False):
        if number in state_dict["state"]:
            yield group, parameter, state_dict["state"][number]
