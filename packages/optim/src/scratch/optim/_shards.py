"""Parameters that are spread over processes: the part that lies here, and the whole.

An update that treats each number by itself is made on the local part, which needs no other process
and none of the cost of dispatching on distributed tensors.
"""

from typing import Any, cast

from torch import Tensor

# torch.distributed.tensor takes longer to import than the rest of this package. A tensor that has a
# local part is proof that somebody has imported it already; plain tensors have no such method.


def is_sharded(x: Tensor) -> bool:
    """Return whether `x` is a DTensor."""
    return hasattr(x, "to_local")


def local(x: Tensor) -> Tensor:
    """Return the part of `x` that lies in this process, in its memory; or `x` if it is whole."""
    return cast("Any", x).to_local() if is_sharded(x) else x


def local_gradient(parameter: Tensor) -> Tensor:
    """Return the local part of the gradient of `parameter`, laid out as `parameter` is."""
    gradient = parameter.grad
    assert gradient is not None
    if not is_sharded(gradient):
        return gradient
    placements = cast("Any", parameter).placements
    if cast("Any", gradient).placements != placements:
        gradient = cast("Any", gradient).redistribute(placements=placements)
    return local(gradient)


def gather(part: Tensor, parameter: Tensor) -> Tensor:
    """Return the whole of which `part` is the local part, laid out as `parameter`. Collective."""
    if not is_sharded(parameter):
        return part
    from torch.distributed.tensor import DTensor

    like = cast("Any", parameter)
    whole = DTensor.from_local(
        part,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )
    return whole.full_tensor()


def scatter(whole: Tensor, parameter: Tensor) -> Tensor:
    """Return the local part of `whole`, which every process has, laid out as `parameter`."""
    if not is_sharded(parameter):
        return whole
    from torch.distributed.tensor import distribute_tensor

    like = cast("Any", parameter)
    spread = distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
    return spread.to_local()
