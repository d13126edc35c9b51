"""A step of decoding by the modules of the model, as it is or compiled.

Compiled, every step must have the same shapes, or it would be compiled again. So the whole cache is
read, a mask made of the positions hides what is not there yet, and a position is a tensor: as a
number of Python it would be part of the program.
"""

from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._cache import KeyValueCache, Reach, ReadNext, visible_columns
from ._config import TransformerConfig
from ._transformer import TransformerLM

# What comes after ids (batch,) at positions (batch,): logits (batch, vocab).
StaticStep = Callable[[TransformerLM, KeyValueCache, Tensor, Tensor], Tensor]
_COLUMNS_AT_ONCE = 256


def step_of_modules(
    model: TransformerLM, cache: KeyValueCache, ids: Int[Tensor, " batch"], reach: Reach
) -> Float[Tensor, "batch vocab"]:
    """Return the logits after `ids`, which join the cache."""
    attend = [ReadNext(buffer, cache.rows, reach) for buffer in cache.layers()]
    hidden = model.hidden(ids[:, None], reach.positions[:, None], attend=attend)
    return model.head(hidden)[:, 0]


def static_step(
    model: TransformerLM, cache: KeyValueCache, ids: Tensor, positions: Tensor
) -> Tensor:
    """Return the logits after `ids`, with operations that are the same at each position."""
    mask = visible_columns(cache.columns, positions, model.config.sliding_window)
    return step_of_modules(model, cache, ids, Reach(positions, slice(cache.capacity), mask))


def compiled_step(
    config: TransformerConfig, cache: KeyValueCache, *, backend: Any = "inductor"
) -> StaticStep:
    """Return `static_step`, compiled once for all models and caches of these shapes."""
    buffer = cache.layers()[0]
    graphs = buffer.is_cuda and backend == "inductor"
    step = _compiled(config, buffer.shape, buffer.dtype, buffer.device, backend)
    if not graphs:
        return step

    def step_of_graph(
        model: TransformerLM, cache: KeyValueCache, ids: Tensor, positions: Tensor
    ) -> Tensor:
        # The graph writes its next answer over this one; whoever draws has read it by then.
        torch.compiler.cudagraph_mark_step_begin()
        return step(model, cache, ids, positions)

    return step_of_graph


def reusable_capacity(capacity: int, *, limit: int) -> int:
    """Return a capacity that other prompts will share, so that fewer steps are compiled."""
    return min(limit, -(-capacity // _COLUMNS_AT_ONCE) * _COLUMNS_AT_ONCE)


@lru_cache(maxsize=32)
def _compiled(
    config: TransformerConfig,  # noqa: ARG001
    shape: torch.Size,  # noqa: ARG001
    dtype: torch.dtype,  # noqa: ARG001
    device: torch.device,
    backend: Any,
) -> StaticStep:
    # The compiler counts what it makes of a code object, and gives up after a few: one for each.
    own = FunctionType(static_step.__code__.replace(), static_step.__globals__, "static_step")
    graphs = device.type == "cuda" and backend == "inductor"
    compiled: Any = torch.compile(
        own,
        fullgraph=True,
        dynamic=False,
        backend=backend,
        mode="reduce-overhead" if graphs else None,
    )
    return compiled
