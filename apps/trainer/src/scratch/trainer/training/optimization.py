"""The optimizer and its schedule, as the settings say."""

from scratch.nn import TransformerLM
from scratch.optim import (
    AdamW,
    Hybrid,
    WarmupCosine,
    WarmupLinear,
    WarmupStableDecay,
    decay_groups,
    hybrid,
)

from ..config import OptimizerSettings

Schedule = WarmupCosine | WarmupLinear | WarmupStableDecay


def build_optimizer(
    settings: OptimizerSettings, model: TransformerLM, *, compiled: bool = False
) -> AdamW | Hybrid:
    """Return the optimizer of all parameters; AdamW's part of it may be compiled."""
    form = "compiled" if compiled else "auto"
    betas = (settings.beta1, settings.beta2)
    if settings.kind == "muon":
        return hybrid(
            model.named_parameters(),
            lr=settings.muon_lr,
            adamw_lr=settings.lr,
            weight_decay=settings.weight_decay,
            scale="spectral",
            betas=betas,
            eps=settings.eps,
            form=form,
        )
    groups = decay_groups(model.named_parameters(), weight_decay=settings.weight_decay)
    return AdamW(groups, settings.lr, betas=betas, eps=settings.eps, form=form)


def build_schedule(settings: OptimizerSettings, *, total_steps: int) -> Schedule:
    """Return the rate at each step of so many: Muon's if there is one, else AdamW's."""
    peak = settings.muon_lr if settings.kind == "muon" else settings.lr
    floor = peak * settings.floor_fraction
    warmup_steps = min(round(total_steps * settings.warmup_fraction), total_steps - 1)
    if settings.schedule == "constant":
        floor = peak
    if settings.schedule == "wsd":
        return WarmupStableDecay(
            peak=peak,
            floor=floor,
            warmup_steps=warmup_steps,
            decay_steps=min(
                max(1, round(total_steps * settings.decay_fraction)), total_steps - warmup_steps
            ),
            total_steps=total_steps,
        )
    kind = WarmupCosine if settings.schedule == "cosine" else WarmupLinear
    return kind(peak=peak, floor=floor, warmup_steps=warmup_steps, total_steps=total_steps)
