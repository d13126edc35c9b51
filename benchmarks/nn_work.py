"""What the jobs of `bench_nn.py` are made of: an order, the work it asks for, and the clock."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scratch.nn import TransformerConfig, TransformerLM

ADAMW: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


@dataclass
class Order:
    """What the parent asks for; `device` and `precision` matter to training steps only."""

    job: str
    program: str
    mode: str
    gemm: str
    shape: dict[str, Any]
    threads: int = 1
    device: str = "cpu"
    precision: str = "float32"


@dataclass
class Work:
    """A run to be timed; `tokens` it makes, `answers` by which to trust it, and other facts."""

    run: Callable[[], object]
    answers: dict[str, Any]
    tokens: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    peak_mb: Callable[[], float | None] = lambda: peak_megabytes()
    utilization: Callable[[float], dict[str, float]] = lambda _: {}


def measure(work: Work, seconds: float) -> dict[str, Any]:
    """Repeat the run until `seconds` are over, at least once; return what one took."""
    taken: list[float] = []
    taken_cpu: list[float] = []
    end = time.perf_counter() + seconds
    while not taken or time.perf_counter() < end:
        begin, begin_cpu = time.perf_counter(), time.process_time()
        work.run()
        taken_cpu.append(time.process_time() - begin_cpu)
        taken.append(time.perf_counter() - begin)
    median = statistics.median(taken)
    facts = {"seconds": median, "cpu_seconds": statistics.median(taken_cpu), "runs": len(taken)}
    facts |= {"peak_mb": work.peak_mb(), **work.facts}
    return facts | (work.utilization(work.tokens / median) if work.tokens else {})


def peak_megabytes() -> float | None:
    """Return the greatest resident memory this process has had; None where nobody tells."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return round(int(line.split()[1]) / 1024, 1)
    except OSError:
        pass
    return None


def our_config(shape: dict[str, Any]) -> TransformerConfig:
    """Return the configuration in a shape, which holds sizes of the data too."""
    others = ("batch", "prompt", "new_tokens")
    return TransformerConfig(**{name: value for name, value in shape.items() if name not in others})


def our_model(shape: dict[str, Any]) -> TransformerLM:
    """Return our model, with the same weights in every process."""
    torch.manual_seed(0)
    return TransformerLM(our_config(shape))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some(values: Tensor) -> list[float]:
    """Return some thousand of the values, evenly chosen."""
    flat = values.detach().flatten()
    return flat[:: max(1, len(flat) // 2000)].tolist()
