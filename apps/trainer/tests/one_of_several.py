"""A process among others, as torchrun starts it: the command `trainer` with a rank.

Run with globals of its own: `ENVIRONMENT`, `ARGUMENTS`, `OUTPUT`, a file for what it prints, and
`BREAK_AT`, a step at which it is to break, with `BREAK_BY`, an error or the factor of its loss.
"""

import os
import sys
from typing import Any

ENVIRONMENT: dict[str, str] = globals()["ENVIRONMENT"]
ARGUMENTS: list[str] = globals()["ARGUMENTS"]
OUTPUT: str = globals()["OUTPUT"]
BREAK_AT: int | None = globals()["BREAK_AT"]
BREAK_BY: Any = globals()["BREAK_BY"]


def breaking(loss: Any) -> Any:
    """Return the loss, until it was asked for often enough."""
    calls = 0

    def broken(model: Any, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != BREAK_AT:
            return loss(model, batch)
        if isinstance(BREAK_BY, Exception):
            raise BREAK_BY
        return loss(model, batch) * BREAK_BY

    return broken


os.environ.update(ENVIRONMENT)
descriptor = os.open(OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(descriptor, 1)
os.dup2(descriptor, 2)

import torch  # noqa: E402

from scratch.trainer import cli  # noqa: E402
from scratch.trainer.training import train  # noqa: E402

torch.set_num_threads(1)
if BREAK_AT is not None:
    train.next_token_loss = breaking(train.next_token_loss)
sys.exit(cli.main(ARGUMENTS))
