"""What it takes to train models of the sizes of GPT-2 (Radford et al., 2019), in our architecture.

The sizes are theirs; the blocks are ours: RMS norms, rotary positions, no bias, and a gated
feed-forward network, whose three matrices make these models larger than theirs.
"""

from dataclasses import dataclass
from typing import Any

import torch

from scratch.nn import (
    FlopsPerToken,
    MemoryEstimate,
    ParameterCount,
    TransformerConfig,
    count_parameters,
    flops_per_token,
    memory_estimate,
)

_VOCAB_SIZE, _CONTEXT_LENGTH = 50_257, 1024
_SIZES = {  # layers, d_model, heads
    "small": (12, 768, 12),
    "medium": (24, 1024, 16),
    "large": (36, 1280, 20),
    "XL": (48, 1600, 25),
}
CARD_BYTES = 80e9

# The training that is asked about: so many updates on one A100, in float32 without tensor cores.
TRAINING_UPDATES, TRAINING_BATCH = 400_000, 1024
A100_FLOAT32_FLOPS_PER_SECOND, UTILIZATION = 19.5e12, 0.5

# m = b1 m + (1 - b1) g: 3;  v = b2 v + (1 - b2) g g: 4;  p = p - a m / (sqrt(v) + eps): 5;
# p = p - lr decay p: 2. Factors that are the same for all parameters cost nothing.
_ADAMW_FLOPS_PER_PARAMETER = 14


@dataclass(frozen=True, kw_only=True)
class SizeAccount:
    """What one model takes.

    Attributes:
        flops: of a token, in a sequence of a full context.
        memory: of training, in float32 on a GPU, with `batch_size` sequences.
        largest_batch: how many sequences fit into 80 GB; 0 if not even one does.
    """

    name: str
    config: TransformerConfig
    batch_size: int
    parameters: ParameterCount
    flops: FlopsPerToken
    memory: MemoryEstimate
    largest_batch: int

    @property
    def sequence_flops(self) -> int:
        """Forward, of one sequence."""
        return self.flops.forward * self.config.context_length

    @property
    def shares(self) -> dict[str, float]:
        """Which part of the forward pass takes which share of its FLOPs."""
        flops = self.flops
        parts = {
            "attention_projections": flops.projections,
            "attention_scores": flops.scores,
            "feed_forward": flops.feed_forward,
            "head": flops.head,
        }
        return {name: part / flops.forward for name, part in parts.items()}

    @property
    def adamw_step_flops(self) -> int:
        return _ADAMW_FLOPS_PER_PARAMETER * self.parameters.total

    @property
    def training_days(self) -> float:
        """400,000 updates of 1,024 sequences on an A100 at half of its peak in float32."""
        tokens = TRAINING_UPDATES * TRAINING_BATCH * self.config.context_length
        seconds = tokens * self.flops.total / (UTILIZATION * A100_FLOAT32_FLOPS_PER_SECOND)
        return seconds / 86_400


def account_for_gpt2(
    *,
    vocab_size: int | None = None,
    context_length: int | None = None,
    batch_size: int | None = None,
) -> list[SizeAccount]:
    """Return the accounts of GPT-2 small to XL; by default with its vocabulary and context."""
    batch_size = batch_size or 1
    accounts: list[SizeAccount] = []
    for name, (layers, d_model, heads) in _SIZES.items():
        config = TransformerConfig(
            vocab_size=vocab_size or _VOCAB_SIZE,
            context_length=context_length or _CONTEXT_LENGTH,
            num_layers=layers,
            d_model=d_model,
            num_heads=heads,
            d_ff=4 * d_model,
        )
        accounts.append(
            SizeAccount(
                name=name,
                config=config,
                batch_size=batch_size,
                parameters=count_parameters(config),
                flops=flops_per_token(config),
                memory=_memory(config, batch_size),
                largest_batch=_largest_batch(config),
            )
        )
    return accounts


def account_as_json(account: SizeAccount) -> dict[str, Any]:
    config, memory = account.config, account.memory
    return {
        "name": account.name,
        "num_layers": config.num_layers,
        "d_model": config.d_model,
        "num_heads": config.num_heads,
        "d_ff": config.d_ff,
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
        "parameters": account.parameters.total,
        "parameters_bytes": memory.parameters_bytes,
        "gradients_bytes": memory.gradients_bytes,
        "optimizer_bytes": memory.optimizer_bytes,
        "batch_size": account.batch_size,
        "activations_bytes": memory.activations.total_bytes,
        "total_bytes": memory.total_bytes,
        "largest_batch_in_80_gb": account.largest_batch,
        "forward_flops_of_a_sequence": account.sequence_flops,
        "forward_shares": account.shares,
        "adamw_step_flops": account.adamw_step_flops,
        "training_days": account.training_days,
    }


def _memory(config: TransformerConfig, batch_size: int) -> MemoryEstimate:
    return memory_estimate(config, batch_size=batch_size, device=torch.device("cuda"))


def _largest_batch(config: TransformerConfig) -> int:
    """Return how many sequences fit: each takes as much as the one before."""
    one, two = (_memory(config, batch).total_bytes for batch in (1, 2))
    return max(0, 1 + int((CARD_BYTES - one) // (two - one)))
