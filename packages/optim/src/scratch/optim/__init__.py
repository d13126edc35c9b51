"""Optimizers, gradient clipping, learning-rate schedules, and what to watch while they work."""

from ._adamw import AdamW, adamw
from ._clipping import clip_grad_norm
from ._clock import ByClock, Stopwatch
from ._groups import decay_groups
from ._hybrid import Hybrid, hybrid
from ._muon import Muon, muon
from ._newton_schulz import newton_schulz, orthogonalize
from ._schedules import Constant, WarmupCosine, WarmupLinear, WarmupStableDecay
from ._sgd import SGD, sgd
from ._stats import GradStats, UpdateRatios, grad_stats

__version__ = "0.2.1"

__all__ = [
    "SGD",
    "AdamW",
    "ByClock",
    "Constant",
    "GradStats",
    "Hybrid",
    "Muon",
    "Stopwatch",
    "UpdateRatios",
    "WarmupCosine",
    "WarmupLinear",
    "WarmupStableDecay",
    "adamw",
    "clip_grad_norm",
    "decay_groups",
    "grad_stats",
    "hybrid",
    "muon",
    "newton_schulz",
    "orthogonalize",
    "sgd",
]
