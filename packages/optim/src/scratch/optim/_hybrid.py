"""Several optimizers as one: for a model, Muon for the matrices inside and AdamW for the rest."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ._adamw import AdamW, Form
from ._groups import decay_groups
from ._masked import MaskedOptimizer, State
from ._muon import Muon, Scale
from ._newton_schulz import Coefficients, Triple


class Hybrid(MaskedOptimizer):
    """The groups of several optimizers in one, each updated by the rule of the one it came from.

    A group carries the name of its rule as `"rule"`. One that joins later without a name is given
    the last rule. The optimizers that were passed in are not to be stepped any more.

    Args:
        rules: optimizers by name; no two may share a parameter.

    Raises:
        ValueError: if there are no rules, a parameter is in two, or a group names another rule.
    """

    def __init__(self, rules: Mapping[str, MaskedOptimizer]) -> None:
        if not rules:
            raise ValueError("rules must hold at least one optimizer, got none")
        self.rules = dict(rules)
        groups = [
            {**group, "rule": name} for name, rule in rules.items() for group in rule.param_groups
        ]
        super().__init__(groups, {})
        for rule in rules.values():
            self.state.update(rule.state)

    @property
    def counter_names(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return frozenset[str]().union(*(rule.counter_names for rule in self.rules.values()))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rules": self.rules}

    def rule_of(self, group: dict[str, Any]) -> MaskedOptimizer:
        return self.rules[group["rule"]]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        name = param_group.setdefault("rule", list(self.rules)[-1])
        if name not in self.rules:
            raise ValueError(f"rule must be one of {', '.join(self.rules)}, got {name!r}")
        for key, value in self.rules[name].defaults.items():
            param_group.setdefault(key, value)
        super().add_param_group(param_group)

    def check_group(self, group: dict[str, Any]) -> None:
        self.rule_of(group).check_group(group)

    def initial_state(self, parameter: Tensor) -> State:
        raise NotImplementedError("the rule of a group knows its state")

    def update(
        self, parameter: Tensor, gradient: Tensor, state: State, group: dict[str, Any]
    ) -> tuple[Tensor, State]:
        return self.rule_of(group).update(parameter, gradient, state, group)


def hybrid(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    lr: float,
    adamw_lr: float | None = None,
    weight_decay: float = 0.1,
    adamw_weight_decay: float | None = None,
    momentum: float = 0.95,
    scale: Scale = "rms",
    split_rows: Mapping[str, int] | None = None,
    coefficients: Coefficients | Sequence[Triple] = "jordan",
    dtype: torch.dtype = torch.bfloat16,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    form: Form = "auto",
    master_weights: bool = False,
    by_adamw: Sequence[str] | Callable[[str, nn.Parameter], bool] = (
        "token_embeddings",
        "lm_head",
    ),
) -> Hybrid:
    """Return one optimizer for a model: Muon for hidden matrices, AdamW for everything else.

    Hidden are the parameters of two axes that `by_adamw` does not claim. AdamW decays matrices and
    no vectors. Parameters that need no gradient are left out. Every group has an `lr_scale`, its
    rate as a multiple of `lr`; a loop that sets rates sets `schedule(step) * group["lr_scale"]`.

    Args:
        named_parameters: as a module names them.
        lr: the rate of Muon; positive, as the others are told as multiples of it.
        adamw_lr: the rate of AdamW; `lr` if None, which suits `scale="rms"`.
        weight_decay: of Muon.
        adamw_weight_decay: of AdamW; `weight_decay` if None.
        momentum: of Muon.
        scale: of Muon.
        split_rows: for parts of names, into how many matrices of equal height a parameter is split
            whose name contains them, as in `{"qkv": 3}`.
        coefficients: of Muon.
        dtype: of Muon.
        betas: of AdamW.
        eps: of AdamW.
        form: of AdamW.
        master_weights: of AdamW.
        by_adamw: parts of the names of matrices that AdamW is to have, or a function of name and
            parameter that says whether it is.

    Raises:
        TypeError: if `by_adamw` is a single string.
        ValueError: if nothing needs a gradient, `lr` is not positive, `split_rows` names what no
            hidden matrix has in its name, or for the reasons of `Muon` and `AdamW`.
    """
    if not lr > 0:
        raise ValueError(f"lr must be positive, as other rates are multiples of it, got {lr}")
    if isinstance(by_adamw, str):
        raise TypeError(f"by_adamw must be several parts of names or a function, got {by_adamw!r}")
    trainable = [(name, p) for name, p in named_parameters if p.requires_grad]
    if not trainable:
        raise ValueError("named_parameters must hold at least one that requires a gradient")
    claims = by_adamw if callable(by_adamw) else _names_with(by_adamw)
    hidden = [(name, p) for name, p in trainable if p.ndim == 2 and not claims(name, p)]
    taken = {id(p) for _, p in hidden}
    others = [(name, p) for name, p in trainable if id(p) not in taken]
    rules: dict[str, MaskedOptimizer] = {}
    if hidden:
        rules["muon"] = Muon(
            _split_groups(hidden, split_rows or {}),
            lr,
            momentum=momentum,
            weight_decay=weight_decay,
            scale=scale,
            coefficients=coefficients,
            dtype=dtype,
        )
    if others:
        decay = weight_decay if adamw_weight_decay is None else adamw_weight_decay
        rules["adamw"] = AdamW(
            decay_groups(others, weight_decay=decay),
            lr if adamw_lr is None else adamw_lr,
            betas=betas,
            eps=eps,
            form=form,
            master_weights=master_weights,
        )
    combined = Hybrid(rules)
    for group in combined.param_groups:
        group["lr_scale"] = group["lr"] / lr
    return combined


def _names_with(parts: Sequence[str]) -> Callable[[str, nn.Parameter], bool]:
    return lambda name, _: any(part in name for part in parts)


def _split_groups(
    named: Sequence[tuple[str, nn.Parameter]], split_rows: Mapping[str, int]
) -> list[dict[str, Any]]:
    for part in split_rows:
        if not any(part in name for name, _ in named):
            raise ValueError(f"split_rows must name parts of hidden matrices, got {part!r}")
    by_count: dict[int, list[nn.Parameter]] = {}
    for name, parameter in named:
        count = next((number for part, number in split_rows.items() if part in name), 1)
        by_count.setdefault(count, []).append(parameter)
    return [{"params": params, "split_rows": count} for count, params in by_count.items()]
