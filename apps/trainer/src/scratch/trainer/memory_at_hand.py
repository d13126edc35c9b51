"""How much memory is left, and how much of it a training may plan to use."""

from pathlib import Path

import psutil
import torch

# An estimate knows neither what lives within one operation nor how an allocator rounds up.
USABLE_FRACTION = 0.8
_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device, *, cgroup: Path = _CGROUP) -> int:
    """Return the memory that `device` has left; for a CPU within the limits of a container too."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    left = _left_in_container(cgroup)
    return free if left is None else min(free, left)


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
    return max(0, int(limit) - used + int(pages.get("inactive_file", 0)))
