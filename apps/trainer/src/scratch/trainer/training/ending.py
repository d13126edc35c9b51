"""How a training ends: what was begun is on the disk, and a bad end is written down, and why."""

from collections.abc import Generator
from contextlib import contextmanager, suppress

from scratch.train import NonFiniteError

from ..config import TrainSettings
from ..runs.run import RunDirectory
from .divergence import DivergedError
from .micro_batch import advise_out_of_memory


@contextmanager
def bad_end_written_down(run: RunDirectory, settings: TrainSettings) -> Generator[None]:
    """Put it into the journal if the training ends badly; tell what to try if memory was short.

    A run that was over, or stopped in good order, stays what it was if it could not be taken up.
    """
    try:
        yield
    except Exception as error:
        share = settings.batch_size // run.world.size
        each = settings.model_copy(update={"batch_size": share})
        used = settings.micro_batch_size
        advice = advise_out_of_memory(
            error,
            each,
            min(used, share) if isinstance(used, int) else used,
            alone=run.world.size == 1,
        )
        diverged = isinstance(error, (NonFiniteError, DivergedError))
        with suppress(OSError, ValueError):  # the disk or the journal may be what went wrong
            lines = run.journal.read()
            if not lines or lines[-1].get("event") in (None, "failed"):
                step = max((record["step"] for record in lines), default=0)
                run.journal.end(step, "diverged" if diverged else "failed", advice or str(error))
        if advice is not None:
            raise MemoryError(advice) from error
        raise


@contextmanager
def all_saved(run: RunDirectory) -> Generator[None]:
    """Wait at the end for the checkpoint that is being written, whatever the end is."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # the first error is the one to tell
            run.checkpoints.wait()
        raise
    run.checkpoints.wait()
