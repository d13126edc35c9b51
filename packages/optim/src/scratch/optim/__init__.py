"""Optimizers, gradient clipping and learning-rate schedules."""

from ._adamw import AdamW, adamw
from ._clipping import clip_grad_norm
from ._groups import decay_groups
from ._schedules import WarmupCosine
from ._sgd import SGD, sgd

__version__ = "0.1.0"

__all__ = ["SGD", "AdamW", "WarmupCosine", "adamw", "clip_grad_norm", "decay_groups", "sgd"]
