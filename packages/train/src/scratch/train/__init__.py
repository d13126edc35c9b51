"""Batches, a training loop, evaluation and checkpoints, for any model and any optimizer."""

from typing import TYPE_CHECKING, Any

from ._checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from ._data import Batch, get_batch, open_tokens, token_dtype, window_batch, write_tokens
from ._distributed import ALONE, World, join_world, read_world
from ._evaluation import (
    Evaluation,
    Padding,
    Window,
    evaluate,
    evaluation_batches,
    scoring_windows,
)
from ._files import atomic_write, remove_directory, sync_directory
from ._loop import NonFiniteError, Step, train_steps
from ._parallel import Parallel, is_sharded, parallelize, whole_state
from ._prefetch import Prefetch
from ._protocols import (
    BinaryReader,
    BinaryWriter,
    GradientSynchronizer,
    MaskedOptimizer,
    Model,
    Optimizer,
    Resharding,
    Stateful,
)
from ._sampler import WindowSampler, permute
from ._shards import Tokens, TokenShards, TokenStream
from ._snapshot import Snapshot

if TYPE_CHECKING:
    from ._sharded_checkpoint import ShardedSnapshot, load_sharded_checkpoint

__version__ = "0.4.0"

__all__ = [
    "ALONE",
    "Batch",
    "BinaryReader",
    "BinaryWriter",
    "CheckpointError",
    "Evaluation",
    "GradientSynchronizer",
    "MaskedOptimizer",
    "Model",
    "NonFiniteError",
    "Optimizer",
    "Padding",
    "Parallel",
    "Prefetch",
    "Resharding",
    "ShardedSnapshot",
    "Snapshot",
    "Stateful",
    "Step",
    "TokenShards",
    "TokenStream",
    "Tokens",
    "Window",
    "WindowSampler",
    "World",
    "atomic_write",
    "evaluate",
    "evaluation_batches",
    "get_batch",
    "is_sharded",
    "join_world",
    "load_checkpoint",
    "load_sharded_checkpoint",
    "open_tokens",
    "parallelize",
    "permute",
    "read_world",
    "remove_directory",
    "save_checkpoint",
    "scoring_windows",
    "sync_directory",
    "token_dtype",
    "train_steps",
    "whole_state",
    "window_batch",
    "write_tokens",
]


def __getattr__(name: str) -> Any:
    """Import what is only needed for spread models, and takes seconds, when it is asked for."""
    if name in ("ShardedSnapshot", "load_sharded_checkpoint"):
        from . import _sharded_checkpoint

        return getattr(_sharded_checkpoint, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
