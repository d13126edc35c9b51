"""Batches, a training loop, evaluation and checkpoints, for any model and any optimizer."""

from ._checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from ._data import Batch, get_batch, open_tokens, token_dtype, window_batch, write_tokens
from ._evaluation import Evaluation, Window, evaluate, evaluation_batches, scoring_windows
from ._files import atomic_write, sync_directory
from ._loop import NonFiniteError, Step, train_steps
from ._prefetch import Prefetch
from ._protocols import (
    BinaryReader,
    BinaryWriter,
    MaskedOptimizer,
    Model,
    Optimizer,
    Stateful,
)
from ._sampler import WindowSampler, permute
from ._shards import Tokens, TokenShards, TokenStream
from ._snapshot import Snapshot

__version__ = "0.3.0"

__all__ = [
    "Batch",
    "BinaryReader",
    "BinaryWriter",
    "CheckpointError",
    "Evaluation",
    "MaskedOptimizer",
    "Model",
    "NonFiniteError",
    "Optimizer",
    "Prefetch",
    "Snapshot",
    "Stateful",
    "Step",
    "TokenShards",
    "TokenStream",
    "Tokens",
    "Window",
    "WindowSampler",
    "atomic_write",
    "evaluate",
    "evaluation_batches",
    "get_batch",
    "load_checkpoint",
    "open_tokens",
    "permute",
    "save_checkpoint",
    "scoring_windows",
    "sync_directory",
    "token_dtype",
    "train_steps",
    "window_batch",
    "write_tokens",
]
