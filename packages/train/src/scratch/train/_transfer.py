"""Token ids on their way to a device: as narrow as they are stored, widened where they arrive.

A batch of uint16 is a quarter of the int64 that embeddings ask for. It leaves from pinned memory,
so that the host need not wait for it; torch's allocator of such memory hands a block out again only
when its copy is over, and after the first few batches asks the system for no more.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Signed types of the same width, for which torch has all operations, and the bits that count.
_CARRIERS: dict[np.dtype[Any], tuple[np.dtype[Any], int]] = {
    np.dtype(np.uint16): (np.dtype(np.int16), 0xFFFF),
    np.dtype(np.uint32): (np.dtype(np.int32), 0xFFFF_FFFF),
}


def send(ids: npt.NDArray[np.integer[Any]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return all columns of `ids` but the last, and all but the first, as int64 on `device`."""
    if device.type == "cuda" and ids.dtype in _CARRIERS:
        block, mask = pack(ids)
        pinned = torch.empty(block.shape, dtype=block.dtype, pin_memory=True)
        there = pinned.copy_(block).to(device, non_blocking=True)
        return unpack(there[:, :-1], mask), unpack(there[:, 1:], mask)
    inputs, targets = (
        torch.as_tensor(part.astype(np.int64)).to(device) for part in (ids[:, :-1], ids[:, 1:])
    )
    return inputs, targets


def pack(ids: npt.NDArray[np.integer[Any]]) -> tuple[Tensor, int]:
    """Return unsigned ids as a tensor of signed ones with the same bits, and which bits count."""
    carrier, mask = _CARRIERS[ids.dtype]
    return torch.as_tensor(ids.view(carrier)), mask


def unpack(block: Tensor, mask: int) -> Tensor:
    """Return the ids that `pack` packed, as int64."""
    return block.to(torch.int64, copy=True, memory_format=torch.contiguous_format).bitwise_and_(
        mask
    )
