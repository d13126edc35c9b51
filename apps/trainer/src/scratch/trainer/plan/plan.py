"""`trainer plan`: what a training takes, told before it is begun."""

import json
from dataclasses import asdict
from typing import Any

from ..commands import PlanSettings
from .gpt2_sizes import account_as_json, account_for_gpt2
from .plan_display import print_gpt2_table, print_training_plan
from .training_plan import TrainingPlan, plan_training


def print_plan(settings: PlanSettings) -> None:
    """Print what a training takes, or the table of GPT-2.

    Raises:
        ValueError: if there are no such settings, or something is missing that they do not say.
    """
    if settings.what == "gpt2":
        accounts = account_for_gpt2(
            vocab_size=settings.vocab_size,
            context_length=settings.context_length,
            batch_size=settings.batch_size,
        )
        if settings.json_output:
            print(json.dumps([account_as_json(account) for account in accounts]))
        else:
            print_gpt2_table(accounts)
        return
    plan = plan_training(settings)
    if settings.json_output:
        print(json.dumps(_as_json(plan), allow_nan=False))
    else:
        print_training_plan(plan)


def _as_json(plan: TrainingPlan) -> dict[str, Any]:
    flops, memory = plan.flops, plan.memory
    return {
        "name": plan.name,
        "device": str(plan.device),
        "model": asdict(plan.config),
        "parameters": {**asdict(plan.parameters), "total": plan.parameters.total},
        "flops_per_token": {
            **asdict(flops),
            "forward": flops.forward,
            "total": flops.total,
        },
        "memory_bytes": {
            "parameters": memory.parameters_bytes,
            "gradients": memory.gradients_bytes,
            "optimizer": memory.optimizer_bytes,
            "activations": {
                name.removesuffix("_bytes"): number
                for name, number in asdict(memory.activations).items()
            },
            "recomputed": memory.recomputed_bytes,
            "total": memory.total_bytes,
        },
        "free_bytes": plan.free_bytes,
        "batch_size": plan.settings.batch_size,
        "micro_batch": plan.micro_batch,
        "largest_micro_batch": plan.largest_micro_batch,
        "tokens_per_update": plan.tokens_per_update,
        "updates": plan.updates,
        "tokens": plan.tokens,
        "data_tokens": plan.data_tokens,
        "total_flops": None if plan.tokens is None else plan.tokens * flops.total,
        "measured": None if plan.burst is None else asdict(plan.burst),
        "update_seconds": plan.update_seconds,
        "tokens_per_second": plan.tokens_per_second,
        "seconds": plan.seconds,
        "mfu": plan.mfu,
    }
