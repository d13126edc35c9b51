"""What training keeps in memory: weights, their gradients and moments, and activations."""

from dataclasses import dataclass
from typing import Literal

import torch

from ._accounting import count_parameters
from ._checks import check_at_least_one
from ._config import TransformerConfig
from ._flops import checked_seq
from ._kept import ActivationMemory, Kept

_ADAMW_BYTES = 8  # two float32 moments


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes that training needs, by what they are for.

    Attributes:
        parameters_bytes: the weights.
        gradients_bytes: one number for each weight, in its dtype.
        optimizer_bytes: moments, and a master copy where there is one.
        activations: kept from the forward pass to the backward pass.
        recomputed_bytes: the inside of one block, which checkpointing makes again when its turn
            comes; 0 without.
    """

    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations: ActivationMemory
    recomputed_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it, as if all were there at once: a little above the peak."""
        learned = self.parameters_bytes + self.gradients_bytes + self.optimizer_bytes
        return learned + self.activations.total_bytes + self.recomputed_bytes


def memory_estimate(
    config: TransformerConfig,
    *,
    batch_size: int,
    seq: int | None = None,
    parameter_dtype: torch.dtype = torch.float32,
    activation_dtype: torch.dtype | None = None,
    optimizer_bytes_per_parameter: int | float = _ADAMW_BYTES,
    forms: Literal["fast", "plain"] = "fast",
    device: torch.device | str = "cpu",
) -> MemoryEstimate:
    """Estimate the memory of one step of training with `TransformerLM.loss`, uncompiled.

    Args:
        config: the model; its `attention` and `checkpointing` count.
        batch_size: sequences that go through the model at a time.
        seq: tokens of each, by default a full context.
        parameter_dtype: of weights, gradients and, for what is added up between blocks, too.
        activation_dtype: of the rest, by default the same. Another one means autocast, which keeps
            copies in this dtype of weights and of what they are multiplied with.
        optimizer_bytes_per_parameter: by default 8, the two float32 moments of AdamW; 12 with a
            float32 master copy beside weights in bfloat16; 4 with one moment.
        forms: "plain" within `plain_forms()`, else "fast".
        device: where; `attention="auto"` depends on it.

    Raises:
        TypeError: if `batch_size` or `seq` is not a whole number.
        ValueError: if one is below 1, `seq` is above the context, there are no such `forms`, or
            `optimizer_bytes_per_parameter` is negative.
    """
    check_at_least_one(batch_size=batch_size)
    seq = checked_seq(config, seq)
    if forms not in ("fast", "plain"):
        raise ValueError(f"forms must be one of fast, plain, got {forms!r}")
    if not optimizer_bytes_per_parameter >= 0:
        raise ValueError(
            "optimizer_bytes_per_parameter must not be negative, "
            f"got {optimizer_bytes_per_parameter}"
        )
    parameters = count_parameters(config).total
    kept = Kept(
        config=config,
        batch=batch_size,
        seq=seq,
        parameter_dtype=parameter_dtype,
        inner_dtype=parameter_dtype if activation_dtype is None else activation_dtype,
        plain=forms == "plain",
        device_type=torch.device(device).type,
    )
    return MemoryEstimate(
        parameters_bytes=parameters * parameter_dtype.itemsize,
        gradients_bytes=parameters * parameter_dtype.itemsize,
        optimizer_bytes=round(parameters * optimizer_bytes_per_parameter),
        activations=kept.activations(),
        recomputed_bytes=kept.made_again(),
    )
