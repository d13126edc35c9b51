"""Which device to compute on, and what the machine is."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import psutil
import torch

_PACKAGES = ("scratch-bpe", "scratch-nn", "scratch-optim", "scratch-train", "scratch-trainer")


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is CUDA if there is one, else MPS, else the CPU.

    Raises:
        ValueError: if torch knows no such device, or this machine has none.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (AssertionError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"device must be one that torch can use, got {name!r}: {reason}") from None
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the matrix products; "auto" is bfloat16 where the device is made for it.

    That is, on GPUs that have it and on CPUs with instructions for it, where it is twice as fast.
    """
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
        return torch.bfloat16
    return torch.float32


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return what somebody needs to know to repeat a run: versions, machine, device, threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {package: version(package) for package in (*_PACKAGES, "torch", "numpy")},
        "device": str(device),
        "device_name": name or platform.machine(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "git_commit": git_commit(),
        "command": sys.argv,
    }


def git_commit() -> str | None:
    """Return the commit of the working directory, with "-dirty" if files differ from it.

    None outside of a repository, or without git.
    """
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def memory_bytes(device: torch.device) -> int:
    """Return the most that tensors have taken on a GPU, or on a CPU what the process takes now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss
