"""A model spread over processes, by torch's own engines; what is said here is what goes where.

    none   each process has the whole model, and there is one process
    ddp    each has the whole model and a share of the batch (Li et al., 2020, arXiv:2006.15704)
    fsdp   each has a share of every tensor too: of weights, gradients and optimizer state; a block
           is gathered when it is its turn (Rajbhandari et al., 2020, arXiv:1910.02054, stage 3)
    hsdp   fsdp among the processes of a group, ddp between groups

Gradients are averaged over processes. In what order that is done differs, so results agree but for
the last digits.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from inspect import signature
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from ._distributed import World
from ._protocols import Model

Parallel = Literal["none", "ddp", "fsdp", "hsdp"]


def parallelize(
    model: nn.Module,
    world: World,
    *,
    parallel: Parallel,
    blocks: Iterable[nn.Module] = (),
    methods: Sequence[str] = (),
    weight_dtype: torch.dtype | None = None,
    group_size: int | None = None,
) -> Model:
    """Spread `model`, which is the same in all processes, and return what is to be trained.

    With "fsdp" and "hsdp" that is `model` itself, whose parameters are DTensors now: make the
    optimizer afterwards. With "ddp" it is another object with the same parameters.

    Args:
        model: where it is to be trained, on the CPU or on the GPU of this process.
        world: the processes; all of them call this. Collective.
        parallel: see above.
        blocks: parts of `model` that are gathered, and let go of, one at a time; what is in none of
            them is gathered for as long as the model is at work.
        methods: other methods of `model` that are called as `forward` is, such as one that returns
            the loss; they may not call each other or the model itself.
        weight_dtype: in which sharded weights are sent, and then used, such as bfloat16; gradients
            are summed in float32 then. By default in their own. A replica is left to autocast.
        group_size: processes of a group, for "hsdp"; by default those of one machine.

    Raises:
        ValueError: if there is nobody to share with, or `group_size` does not divide the processes.
    """
    if parallel not in get_args(Parallel):
        raise ValueError(f"parallel must be one of {', '.join(get_args(Parallel))}, got {parallel}")
    if parallel == "none":
        if world.size > 1:
            raise ValueError(
                f"parallel must not be none for {world.size} processes, "
                "each of which would train by itself; choose ddp, fsdp or hsdp"
            )
        return cast("Model", model)
    if world.size == 1:
        raise ValueError(
            f"parallel must be none for a process on its own, got {parallel}; "
            "torchrun starts several"
        )
    if parallel == "ddp":
        return _Replica(model, methods)
    from torch.distributed.fsdp import (
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    group = _group_size(world, group_size) if parallel == "hsdp" else world.size
    policy = MixedPrecisionPolicy()
    if weight_dtype is not None:
        policy = MixedPrecisionPolicy(param_dtype=weight_dtype, reduce_dtype=torch.float32)
    mesh = _mesh(model, world, group)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    for name in methods:
        register_fsdp_forward_method(model, name)
    return cast("Model", model)


def is_sharded(model: nn.Module) -> bool:
    """Return whether this process has a part of the weights only."""
    return any(hasattr(parameter, "to_local") for parameter in model.parameters())


def whole_state(model: nn.Module, world: World) -> dict[str, Tensor]:
    """Return the state dict of a model with whole tensors, on the CPU; nothing but on the main one.

    A process on its own returns it. Collective.
    """
    if world.size == 1:
        return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = cast("dict[str, Tensor]", get_model_state_dict(model, options=options))
    return state if world.is_main else {}


def _group_size(world: World, group_size: int | None) -> int:
    size = world.local_size if group_size is None else group_size
    if size < 1 or world.size % size:
        raise ValueError(
            f"the size of a group must divide the number of processes, got groups of {size} "
            f"for {world.size} processes"
        )
    return size


def _mesh(model: nn.Module, world: World, group: int) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    device_type = next(model.parameters()).device.type
    if group == world.size:
        return init_device_mesh(device_type, (world.size,), mesh_dim_names=("shard",))
    shape = (world.size // group, group)
    return init_device_mesh(device_type, shape, mesh_dim_names=("replicate", "shard"))


class _Called(nn.Module):
    """A model whose methods are called through its `forward`, which is what DDP looks at."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, method: str, *arguments: Any, **named: Any) -> Any:
        return getattr(self.model, method)(*arguments, **named)


class _Replica(nn.Module):
    """A model whose gradients are averaged over processes while they are made.

    Has the state of the model, under the names that the model has for it.
    """

    def __init__(self, model: nn.Module, methods: Sequence[str]) -> None:
        super().__init__()
        from torch.nn.parallel import DistributedDataParallel

        device = next(model.parameters()).device
        # Buffers do not change; before torch 2.15 this option had another name.
        known = signature(cast("Any", DistributedDataParallel)).parameters
        sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {sync: False, "gradient_as_bucket_view": True}
        self._state = model.state_dict, model.load_state_dict
        self._replicated = DistributedDataParallel(
            _Called(model),
            device_ids=None if device.type == "cpu" else [device],
            **options,
        )
        for name in methods:
            setattr(self, name, partial(self._replicated, name))

    def forward(self, *arguments: Any, **named: Any) -> Any:
        return self._replicated("__call__", *arguments, **named)

    def set_requires_gradient_sync(self, requires_gradient_sync: bool, /) -> None:
        """Say whether the next backward pass averages gradients, or adds them up here only."""
        self._replicated.require_backward_grad_sync = requires_gradient_sync

    def state_dict(self, *arguments: Any, **named: Any) -> Any:
        return cast("Any", self._state[0](*arguments, **named))

    def load_state_dict(self, *arguments: Any, **named: Any) -> Any:
        return self._state[1](*arguments, **named)
