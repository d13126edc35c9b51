"""The checkpoints of a run: folders that appear under their names by a rename, when complete.

    step-00000500/checkpoint.pt  of a process on its own
    step-00001000/               of several: checkpoint.json, .metadata, __0_0.distcp, __1_0.distcp
    damaged-step-00001500/       one that could not be read when the run went on
    latest                       the name of the newest, written after it

Training waits only while the state is copied in memory. A thread writes the copy, one at a time;
what goes wrong there comes out at the next call. Any number of processes reads both kinds.
"""

import shutil
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from scratch.optim import AdamW, Hybrid
from scratch.train import (
    ALONE,
    CheckpointError,
    Snapshot,
    World,
    atomic_write,
    load_checkpoint,
    remove_directory,
    sync_directory,
)

from ..watching.display import say

if TYPE_CHECKING:
    from scratch.train import ShardedSnapshot  # which takes seconds to import, and few need it

_FILE, _SHARDED, _LATEST = "checkpoint.pt", "checkpoint.json", "latest"

Optimizer = AdamW | Hybrid


class Checkpoints:
    """Those in a directory; of several processes of a `world`, all call the same at once."""

    def __init__(self, directory: Path, world: World = ALONE) -> None:
        self._directory, self._world = directory, world
        self._snapshot: Snapshot | None = None
        self._sharded: ShardedSnapshot | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    def steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, in order."""
        return sorted(
            int(file.parent.name.removeprefix("step-"))
            for name in (_FILE, _SHARDED)
            for file in self._directory.glob(f"step-*/{name}")
            if file.parent.name.removeprefix("step-").isdecimal()
        )

    def clear_unfinished(self) -> None:
        """Remove what a process left that was killed while it wrote."""
        self._directory.mkdir(exist_ok=True)
        for unfinished in self._directory.glob(".*.tmp"):
            if unfinished.is_dir():
                shutil.rmtree(unfinished)
            else:
                unfinished.unlink()
        self._name_latest()

    def save(
        self,
        model: nn.Module,
        optimizer: Optimizer,
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
        save = self._take(model, optimizer, step)

        def write() -> None:
            before()
            save(self._folder(step))
            if self._world.is_main:
                self._name_latest()
                for old in self.steps()[:-keep]:
                    if old not in best:
                        remove_directory(self._folder(old))

        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._writing = self._thread.submit(write)

    def wait(self) -> None:
        """Return when the last `save` is on the disk. Raises what kept it from getting there."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def load(self, step: int, model: nn.Module, optimizer: Optimizer | None = None) -> None:
        """Restore the checkpoint of a step.

        Raises:
            ValueError: if there is none, naming those there are, or it is damaged or another one.
        """
        steps = self._world.on_main(self.steps)
        if step not in steps:
            raise ValueError(
                f"{self._directory} must hold the checkpoint of step {step}, got "
                + (f"those of {', '.join(map(str, steps))}" if steps else "none")
            )
        self._load(step, model, optimizer)

    def load_newest(self, model: nn.Module, optimizer: Optimizer) -> int:
        """Restore the newest checkpoint that can be read, and return its step; 0 if there is none.

        Those that are newer, and damaged or of another step, are told and set aside.

        Raises:
            CheckpointError: if there are some, and none can be read.
        """
        damaged: list[int] = []
        for step in reversed(self._world.on_main(self.steps)):
            try:
                self._load(step, model, optimizer)
            except CheckpointError as error:
                say(f"{error}; trying the checkpoint before it")
                damaged.append(step)
                continue
            if damaged:
                self._world.on_main(lambda: self._set_aside(damaged))
            return step
        if damaged:
            raise CheckpointError(
                f"{self._directory} holds no checkpoint that can be read; "
                "remove it, and metrics.jsonl beside it, to start again"
            )
        return 0

    def remove_after(self, step: int) -> None:
        def remove() -> None:
            for later in self.steps():
                if later > step:
                    remove_directory(self._folder(later))
            self._name_latest()

        self._world.on_main(remove)

    def _load(self, step: int, model: nn.Module, optimizer: Optimizer | None) -> None:
        folder = self._folder(step)
        if self._world.on_main((folder / _SHARDED).exists):
            from scratch.train import load_sharded_checkpoint

            found = load_sharded_checkpoint(folder, model, optimizer, world=self._world)
        else:
            found = load_checkpoint(folder / _FILE, model, optimizer)
        if found != step:
            raise CheckpointError(f"{folder} must be of step {step}, got one of {found}")

    def _folder(self, step: int) -> Path:
        return self._directory / f"step-{step:08}"

    def _take(self, model: nn.Module, optimizer: Optimizer, step: int) -> Callable[[Path], object]:
        """Copy the state; return what writes it to a folder."""
        if self._world.size > 1:
            from scratch.train import ShardedSnapshot

            self._sharded = self._sharded or ShardedSnapshot(self._world)
            self._sharded.take(model, optimizer, step)
            return self._sharded.save
        snapshot = self._snapshot = self._snapshot or Snapshot()
        snapshot.take(model, optimizer, step)
        return lambda folder: self._write(snapshot, folder)

    def _write(self, snapshot: Snapshot, folder: Path) -> None:
        unfinished = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        try:
            snapshot.save(unfinished / _FILE)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        remove_directory(folder)
        unfinished.rename(folder)
        sync_directory(self._directory)

    def _set_aside(self, steps: Collection[int]) -> None:
        for step in steps:
            folder = self._folder(step)
            aside = folder.with_name(f"damaged-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            say(f"set aside as {aside}")
        self._name_latest()

    def _name_latest(self) -> None:
        """Write down which one is the newest."""
        steps = self.steps()
        if not steps:
            (self._directory / _LATEST).unlink(missing_ok=True)
            return
        with atomic_write(self._directory / _LATEST) as file:
            file.write(f"{self._folder(steps[-1]).name}\n".encode())
