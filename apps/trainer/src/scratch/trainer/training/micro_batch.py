"""How many sequences fit into memory at a time, and what to do where they did not."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from scratch.nn import (
    MemoryEstimate,
    TransformerConfig,
    TransformerLM,
    count_parameters,
    fast_matmul,
    memory_estimate,
)
from scratch.train import Batch

from ..config import OptimizerSettings, TrainSettings
from ..device import choose_precision
from ..using.score import next_token_loss
from .memory_at_hand import USABLE_FRACTION, free_bytes

_MOMENT_BYTES = 4  # float32

# What the allocators of torch say when there is no memory left. Not all of them have a class.
_SIGNS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "alloc_failed",
)


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to change where memory has run out: a flag, its next value, and the value it had."""

    flag: str
    value: str
    was: str


def candidates(batch_size: int) -> list[int]:
    """Return the micro-batches worth trying, the largest first.

    They are divisors of the batch and powers of two. Of those that cut the batch into equally many
    parts only the smallest is there: 48 and 64 make two parts of 96, and 48 needs less memory.
    """
    powers = {2**exponent for exponent in range(batch_size.bit_length())}
    divisors = {size for size in range(1, batch_size + 1) if batch_size % size == 0}
    smallest: dict[int, int] = {}
    for size in sorted(powers | divisors, reverse=True):
        smallest[-(-batch_size // size)] = size
    return list(smallest.values())


def largest_that_fits(batch_size: int, fits: Callable[[int], bool]) -> int | None:
    """Return the largest of `candidates` that fits, `None` if not even one sequence does.

    The whole batch is tried first, then the middle of what is left, and so on.
    """
    sizes = candidates(batch_size)
    if fits(sizes[0]):
        return sizes[0]
    fitting, failing = len(sizes), 0  # places in `sizes`; past its end is "not even one"
    while fitting - failing > 1:
        middle = (fitting + failing) // 2
        if fits(sizes[middle]):
            fitting = middle
        else:
            failing = middle
    return sizes[fitting] if fitting < len(sizes) else None


def largest_micro_batch(model: TransformerLM, settings: TrainSettings, device: torch.device) -> int:
    """Return the largest micro-batch that `model`, which is on `device`, can be trained with.

    To be asked before there are gradients and optimizer state, for which room is left. On a CUDA
    device each size is tried, on others the estimate decides. Neither weights nor torch's random
    numbers change.

    Raises:
        ValueError: if not even one sequence fits, naming what to change.
    """
    if device.type == "cuda":

        def fits(size: int) -> bool:
            return _fits_on_trial(model, settings, size, device)
    else:
        parameters = sum(p.numel() * p.element_size() for p in model.parameters())
        usable = int(USABLE_FRACTION * free_bytes(device)) + parameters  # they are there already

        def fits(size: int) -> bool:
            return needed_bytes(model.config, settings, size, device) <= usable

    largest = largest_that_fits(settings.batch_size, fits)
    if largest is None:
        raise ValueError(
            f"not even one sequence fits into the memory of {device}; {_tell(_smaller(settings))}"
        )
    return largest


def estimate(
    config: TransformerConfig, settings: TrainSettings, size: int, device: torch.device
) -> MemoryEstimate:
    """Estimate the memory of one update as the settings say, `size` sequences at a time."""
    precision = choose_precision(settings.precision, device)
    state = optimizer_state_bytes(config, settings.optimizer)
    return memory_estimate(
        config,
        batch_size=size,
        activation_dtype=None if precision == torch.float32 else precision,
        optimizer_bytes_per_parameter=state / count_parameters(config).total,
        device=device,
    )


def needed_bytes(
    config: TransformerConfig, settings: TrainSettings, size: int, device: torch.device
) -> int:
    """Return what has to be free, with what comes on top of the estimate.

    That is what a block needs while its gradients are made, and, on a CPU, a copy of the state for
    a checkpoint that is being written. Measured on a CPU, the peak of models of one to eight blocks
    was up to 1.6 blocks above the estimate, and 2.2 with checkpointing.
    """
    memory = estimate(config, settings, size, device)
    kept = memory.activations
    all_blocks = kept.norms_bytes + kept.attention_bytes + kept.feed_forward_bytes
    block = max(all_blocks // config.num_layers, memory.recomputed_bytes)
    snapshot = memory.parameters_bytes + memory.optimizer_bytes if device.type == "cpu" else 0
    return memory.total_bytes + 2 * block + snapshot


def optimizer_state_bytes(config: TransformerConfig, settings: OptimizerSettings) -> int:
    """Return the bytes of the moments: two for AdamW; one for Muon, which has the blocks."""
    count = count_parameters(config)
    by_muon = count.attention + count.feed_forward if settings.kind == "muon" else 0
    return _MOMENT_BYTES * (2 * count.total - by_muon)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there was no memory left, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in message for sign in _SIGNS)


def advise_out_of_memory(
    error: BaseException,
    settings: TrainSettings,
    used_micro_batch: int | Literal["auto"] | None = None,
    *,
    alone: bool = True,
) -> str | None:
    """Return what to try next, in a sentence, if `error` is that memory has run out.

    `used_micro_batch` is how many sequences were in memory, by default all of the batch. Several
    processes, whose share of the batch the settings have, cannot find it out by trying.
    """
    if not is_out_of_memory(error):
        return None
    used = used_micro_batch if isinstance(used_micro_batch, int) else settings.batch_size
    begin = f"the memory is used up at a micro-batch of {used}"
    if used == 1:
        return f"{begin}; {_tell(_smaller(settings))}"
    size = next(size for size in candidates(used) if 2 * size <= used)
    advice = Advice(flag="--micro-batch-size", value=str(size), was=str(used))
    if settings.micro_batch_size == "auto" or not alone:  # it found this: others use memory too
        return f"{begin}; {_tell(advice)}"
    return f"{begin}; {_tell(advice)}, or --micro-batch auto, which finds the largest that fits"


def _smaller(settings: TrainSettings) -> Advice:
    """Return what makes one sequence need less, the first thing that is left to change."""
    model = settings.model
    if model.checkpointing == "none":
        return Advice(flag="--model.checkpointing", value="block", was="none")
    if model.context_length > 1:
        context = model.context_length
        return Advice(flag="--model.context-length", value=str(context // 2), was=str(context))
    layers = model.num_layers
    return Advice(flag="--model.num-layers", value=str(max(1, layers // 2)), was=str(layers))


def _tell(advice: Advice) -> str:
    return f"try {advice.flag} {advice.value} (it was {advice.was})"


def _fits_on_trial(
    model: TransformerLM, settings: TrainSettings, size: int, device: torch.device
) -> bool:
    """Return whether a micro-batch goes through with everything else in place that comes later."""
    state = optimizer_state_bytes(model.config, settings.optimizer)
    total = torch.cuda.mem_get_info(device)[1]
    room = state + int((1 - USABLE_FRACTION) / 2 * total)

    def attempt() -> None:
        held = torch.empty(room, dtype=torch.uint8, device=device)
        take_passes(model, settings, size, device)
        del held

    try:
        return succeeds(attempt)
    finally:
        model.zero_grad(set_to_none=True)
        gc.collect()  # what the traceback of a failed attempt held
        torch.cuda.empty_cache()


def succeeds(attempt: Callable[[], Any]) -> bool:
    """Return whether `attempt` gets the memory it needs; any other error of it is raised."""
    try:
        attempt()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def take_passes(
    model: TransformerLM, settings: TrainSettings, size: int, device: torch.device
) -> None:
    """Go forward and backward twice, as in an update of two micro-batches, on random tokens.

    The second time the gradients of the first are there too.
    """
    precision = choose_precision(settings.precision, device)
    shape = (size, model.config.context_length)
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, shape, generator=chance).to(device)
    for _ in range(2):
        with fast_matmul():
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                loss = next_token_loss(model, Batch(ids, ids))
            loss.backward()  # pyright: ignore[reportUnknownMemberType]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
