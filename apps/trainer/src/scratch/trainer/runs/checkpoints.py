"""The checkpoints of a run: folders that appear under their names by a rename, when complete.

    step-00000500/checkpoint.pt
    damaged-step-00001000/       one that could not be read when the run went on

Training waits only while the state is copied in memory. A thread writes the copy, one at a time;
what goes wrong there comes out at the next call.
"""

import shutil
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from scratch.train import CheckpointError, Snapshot, Stateful, load_checkpoint, sync_directory

from ..watching.display import say

_FILE = "checkpoint.pt"


class Checkpoints:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._snapshot = Snapshot()
        self._thread: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    def steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, in order."""
        return sorted(
            int(file.parent.name.removeprefix("step-"))
            for file in self._directory.glob(f"step-*/{_FILE}")
            if file.parent.name.removeprefix("step-").isdecimal()
        )

    def file(self, step: int) -> Path:
        return self._folder(step) / _FILE

    def clear_unfinished(self) -> None:
        """Remove what a process left that was killed while it wrote."""
        self._directory.mkdir(exist_ok=True)
        for unfinished in self._directory.glob(".step-*.tmp"):
            shutil.rmtree(unfinished)

    def save(
        self,
        model: Stateful,
        optimizer: Stateful,
        step: int,
        *,
        keep: int,
        best: Collection[int] = (),
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Copy the state and begin to write it; `wait` returns when it is on the disk.

        Args:
            model, optimizer, step: what to save.
            keep: of how many of the newest checkpoints stay when this one is complete.
            best: steps whose checkpoints stay besides.
            before: is called first, where the checkpoint is written.

        Raises:
            OSError: if the one before could not be written.
        """
        self.wait()
        self._snapshot.take(model, optimizer, step)

        def write() -> None:
            before()
            self._write(step)
            for old in self.steps()[:-keep]:
                if old not in best:
                    shutil.rmtree(self._folder(old))

        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._writing = self._thread.submit(write)

    def wait(self) -> None:
        """Return when the last `save` is on the disk. Raises what kept it from getting there."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def load(self, step: int, model: Stateful, optimizer: Stateful | None = None) -> None:
        """Restore the checkpoint of a step.

        Raises:
            ValueError: if there is none, naming those there are, or it is damaged or another one.
        """
        if step not in self.steps():
            raise ValueError(
                f"{self._directory} must hold the checkpoint of step {step}, got "
                + (f"those of {', '.join(map(str, self.steps()))}" if self.steps() else "none")
            )
        self._load(step, model, optimizer)

    def load_newest(self, model: Stateful, optimizer: Stateful) -> int:
        """Restore the newest checkpoint that can be read, and return its step; 0 if there is none.

        Those that are newer, and damaged or of another step, are told and set aside.

        Raises:
            CheckpointError: if there are some, and none can be read.
        """
        damaged: list[int] = []
        for step in reversed(self.steps()):
            try:
                self._load(step, model, optimizer)
            except CheckpointError as error:
                say(f"{error}; trying the checkpoint before it")
                damaged.append(step)
                continue
            for other in damaged:
                self._set_aside(other)
            return step
        if damaged:
            raise CheckpointError(
                f"{self._directory} holds no checkpoint that can be read; "
                "remove it, and metrics.jsonl beside it, to start again"
            )
        return 0

    def remove_after(self, step: int) -> None:
        for later in self.steps():
            if later > step:
                shutil.rmtree(self._folder(later))

    def _load(self, step: int, model: Stateful, optimizer: Stateful | None) -> None:
        found = load_checkpoint(self.file(step), model, optimizer)
        if found != step:
            raise CheckpointError(f"{self.file(step)} must be of step {step}, got one of {found}")

    def _folder(self, step: int) -> Path:
        return self._directory / f"step-{step:08}"

    def _write(self, step: int) -> None:
        final = self._folder(step)
        unfinished = final.with_name(f".{final.name}.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        try:
            self._snapshot.save(unfinished / _FILE)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        shutil.rmtree(final, ignore_errors=True)
        unfinished.rename(final)
        sync_directory(self._directory)

    def _set_aside(self, step: int) -> None:
        folder = self._folder(step)
        aside = folder.with_name(f"damaged-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        say(f"set aside as {aside}")
