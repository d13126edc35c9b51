"""L2 norms over many tensors, of any mixture of dtypes, whole or spread over processes."""

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add
from typing import Any, cast

import torch
from torch import Tensor

from ._masked import wide_dtype
from ._shards import is_sharded, local

# The norm that torch computes on a CPU is one running sum in float32, which is off by a quarter of
# a per cent after 4e7 terms. Sums of this many, added up pairwise, are off by less than 1e-5.
_PIECE = 1 << 16


def norm_of(tensors: Iterable[Tensor]) -> Tensor:
    """Return the norm of all `tensors` together, in float32 or wider, on the device of the first.

    Of tensors that are spread over processes all parts count, by one all-reduce for each layout.
    Squares that leave the range of that dtype, in float32 of entries beyond 1.8e19, make it inf.
    """
    by_layout: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        like = cast("Any", tensor)
        layout = (like.device_mesh, like.placements) if is_sharded(tensor) else None
        by_layout.setdefault(layout, []).append(tensor)
    if not by_layout:
        return torch.zeros(())
    totals = [
        _sum_of_squares(members) if layout is None else _sum_over_processes(members, *layout)
        for layout, members in by_layout.items()
    ]
    return _added(totals).sqrt()


def _sum_of_squares(tensors: Sequence[Tensor]) -> Tensor:
    by_kind: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        by_kind.setdefault((tensor.dtype, tensor.device), []).extend(_pieces(tensor))
    totals = [
        torch.stack(torch._foreach_norm(pieces, 2, wide_dtype(pieces[0]))).square().sum()
        for pieces in by_kind.values()
    ]
    return _added(totals)


def _sum_over_processes(tensors: Sequence[Tensor], mesh: Any, placements: Sequence[Any]) -> Tensor:
    from torch.distributed.tensor import DTensor, Partial, Replicate

    whole: list[Any] = [Replicate() if p.is_partial() else p for p in placements]
    parts = [cast("Any", tensor).redistribute(placements=whole) for tensor in tensors]
    total = _sum_of_squares([local(part) for part in parts])
    kinds = [Partial() if placement.is_shard() else Replicate() for placement in whole]
    return DTensor.from_local(total, mesh, kinds, run_check=False).full_tensor()


def _added(totals: Sequence[Tensor]) -> Tensor:
    return reduce(add, [total.to(totals[0].device) for total in totals])


def _pieces(tensor: Tensor) -> Sequence[Tensor]:
    if tensor.device.type != "cpu" or tensor.numel() <= _PIECE or not tensor.is_contiguous():
        return [tensor]
    return torch.split(tensor.view(-1), _PIECE)
