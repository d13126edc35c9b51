"""How much memory is left, and how much of it a training may plan to use."""

import sys
from pathlib import Path

import psutil
import torch

# An estimate knows neither what lives within one operation nor how an allocator rounds up.
USABLE_FRACTION = 0.8
_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device, *, cgroup: Path = _CGROUP) -> int:
    """Return the memory that `device` has left; for a CPU within all limits set to this process."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = (_left_in_container(cgroup), _left_of_address_space())
    left = [limit for limit in limits if limit is not None]
    return max(0, min([psutil.virtual_memory().available, *left]))


def _left_in_container(cgroup: Path) -> int | None:
    """Return what a control group of Linux (version 2) leaves, `None` where it sets no limit.

    Pages of files that nobody uses are given back when they are asked for, so they count as free.
    """
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        counters = (cgroup / "memory.stat").read_text().splitlines()
    except OSError:
        return None
    if limit == "max":
        return None
    pages = dict(line.split() for line in counters)
    return int(limit) - used + int(pages.get("inactive_file", 0))


def _left_of_address_space() -> int | None:
    """Return what `ulimit -v` leaves, `None` where it sets no limit."""
    if not sys.platform.startswith("linux"):
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    return limit - psutil.Process().memory_info().vms
