"""Checkpoints of a model that is spread over processes: a folder to which all of them write.

Torch's distributed checkpoint writes the tensors, each process its own part of them, and reads them
for any number of processes, whatever part each of those has. The folder gets its name by a rename
when it is complete and on the disk; `_sharded_files` tells what is in it.
"""

# pyright: reportPrivateImportUsage=false, reportUnknownMemberType=false

import math
import operator
import shutil
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from ._checkpoint import CheckpointError
from ._distributed import ALONE, World
from ._files import StrPath, remove_directory, sync_directory
from ._sharded_files import (
    Reader,
    TensorsOnly,
    checksums,
    find_damage,
    read_manifest,
    write_manifest,
)

# As long as `join_world` waits by default; torch would wait half an hour.
_TIMEOUT = timedelta(minutes=10)

_MODEL, _OPTIMIZER = "model.", "optimizer."


class ShardedSnapshot:
    """What a spread model and its optimizer held at one moment, to be written whenever it suits.

    As `Snapshot`, it takes host memory, which is kept for the next moment: as much as this process
    has of the checkpoint. To make one is collective.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        # Of its own, so that what a thread exchanges here does not meet what training exchanges.
        self._group: dist.ProcessGroup | None = None
        if world.size > 1:
            self._group = cast(
                "dist.ProcessGroup", dist.new_group(backend="gloo", timeout=_TIMEOUT)
            )
        self._stager = DefaultStager(StagingOptions(False, False, False, False))
        self._tensors: dict[str, Tensor] | None = None
        self._content: dict[str, Any] = {}

    def take(self, model: nn.Module, optimizer: torch.optim.Optimizer, iteration: int) -> None:
        """Copy this process's part of the state, in place of what was held. Not during `save`.

        Raises:
            TypeError: if `iteration` is not a whole number.
            ValueError: if it is negative.
        """
        iteration = operator.index(iteration)
        if iteration < 0:
            raise ValueError(f"iteration must not be negative, got {iteration}")
        tensors, groups = _state(model, optimizer)
        self._tensors = cast("dict[str, Tensor]", self._stager.stage(tensors))
        self._content = {
            "iteration": iteration,
            "processes": self._world.size,
            "param_groups": groups,
        }

    def save(self, folder: StrPath) -> None:
        """Write what was taken, under a temporary name until it is complete. Collective.

        Another thread may do it, the same in all processes.

        Raises:
            ValueError: if nothing was taken yet.
            TypeError: if a group of the optimizer holds anything but plain values.
            OSError: in all processes, if one of them cannot write.
        """
        if self._tensors is None:
            raise ValueError("take must be called before save, got an empty snapshot")
        folder = Path(folder)
        unfinished = folder.with_name(f".{folder.name}.tmp")
        self._on_main(lambda: _make_empty(unfinished))
        try:
            with _alone_on_purpose():
                dcp.save(
                    self._tensors,
                    storage_writer=dcp.FileSystemWriter(unfinished),
                    process_group=self._group,
                    no_dist=self._group is None,
                )
        except dcp.CheckpointException as error:
            self._on_main(lambda: shutil.rmtree(unfinished, ignore_errors=True))
            raise _cause(error) from error
        own = checksums(unfinished, f"__{self._world.rank}_")
        files = {name: sums for part in self._gather(own) for name, sums in part.items()}
        self._on_main(lambda: self._commit(unfinished, folder, files))

    def _commit(self, unfinished: Path, folder: Path, files: dict[str, dict[str, int]]) -> None:
        try:
            write_manifest(unfinished, self._content, files)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        remove_directory(folder)
        unfinished.rename(folder)
        sync_directory(folder.parent)

    def _gather(self, value: dict[str, dict[str, int]]) -> list[dict[str, dict[str, int]]]:
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self._world.size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def _on_main(self, work: Callable[[], None]) -> None:
        self._world.on_main(work, group=self._group)


def load_sharded_checkpoint(
    folder: StrPath,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    world: World = ALONE,
) -> int:
    """Restore `model` and, if given, `optimizer`, and return the number of updates done.

    Any number of processes can load, with the model spread in any way or whole. Files are checked
    before either is touched, each process reading its share of them. Collective.

    Raises:
        CheckpointError: in all processes, if the folder is incomplete, damaged, of another kind or
            version, or belongs to another model or optimizer; it names what does not fit.
        OSError: if a file cannot be read.
    """
    folder = Path(folder)
    state, groups = _state(model, optimizer)
    problem, manifest, fitted = "", dict[str, Any](), list[dict[str, Any]]()
    try:
        manifest = read_manifest(folder)
        problem = find_damage(folder, manifest["files"], of=world.size, number=world.rank)
        if not problem:
            problem = _differences(Reader(folder, manifest["files"]).read_metadata(), state, folder)
        fitted = _fitted(manifest["param_groups"], groups, folder)
    except CheckpointError as error:
        problem = str(error)
    except Exception as error:  # whatever strange values in strange files lead to
        problem = f"{folder} is not a checkpoint that can be read: {error!r}"
    found = world.first(problem or None)
    if found is not None:
        raise CheckpointError(found)
    try:
        with _alone_on_purpose():
            dcp.load(
                state,
                storage_reader=Reader(folder, manifest["files"]),
                planner=TensorsOnly(),
                no_dist=world.size == 1,
            )
    except dcp.CheckpointException as error:
        raise _cause(error) from error
    _put(state, fitted, model, optimizer)
    return int(manifest["iteration"])


def load_whole(content: dict[str, Any], model: nn.Module, optimizer: Any | None) -> None:
    """Restore a spread model and its optimizer from the state of whole ones, which all have."""
    whole = StateDictOptions(full_state_dict=True)
    if optimizer is not None:
        names = {parameter: name for name, parameter in model.named_parameters()}
        ordered = [names[p] for group in optimizer.param_groups for p in group["params"]]
        saved = content["optimizer"]
        named: dict[str, Any] = {
            "state": {ordered[number]: state for number, state in saved["state"].items()},
            "param_groups": [
                {**group, "params": [ordered[number] for number in group["params"]]}
                for group in saved["param_groups"]
            ],
        }
        set_optimizer_state_dict(model, optimizer, named, options=whole)
    set_model_state_dict(model, content["model"], options=whole)


def _state(
    model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Return all tensors by name, and the groups of the optimizer, with names of parameters."""
    tensors = {f"{_MODEL}{name}": value for name, value in get_model_state_dict(model).items()}
    if optimizer is None:
        return cast("dict[str, Tensor]", tensors), []
    found = cast("dict[str, Any]", get_optimizer_state_dict(model, optimizer))
    for name, values in found["state"].items():
        tensors |= {f"{_OPTIMIZER}{name}.{key}": value for key, value in values.items()}
    return cast("dict[str, Tensor]", tensors), found["param_groups"]


def _put(
    tensors: dict[str, Tensor],
    groups: list[dict[str, Any]],
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
) -> None:
    if optimizer is not None:
        state: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(_OPTIMIZER):
                name, _, kind = key.removeprefix(_OPTIMIZER).rpartition(".")
                state.setdefault(name, {})[kind] = value
        whole: dict[str, Any] = {"state": state, "param_groups": groups}
        set_optimizer_state_dict(model, optimizer, whole)
    own = {
        key.removeprefix(_MODEL): value for key, value in tensors.items() if key.startswith(_MODEL)
    }
    set_model_state_dict(model, cast("dict[str, Any]", own))


def _differences(found: Metadata, wanted: dict[str, Tensor], folder: Path) -> str:
    """Return how the tensors of a checkpoint differ from those that are asked for, or ""."""
    saved = found.state_dict_metadata
    needs_optimizer = any(key.startswith(_OPTIMIZER) for key in wanted)
    known = [key for key in saved if needs_optimizer or key.startswith(_MODEL)]
    differences = [f"no {key}" for key in wanted if key not in saved]
    differences += [f"unknown {key}" for key in known if key not in wanted]
    for key, tensor in wanted.items():
        about = saved.get(key)
        if about is None:
            continue
        its = "a pickle"
        if isinstance(about, TensorStorageMetadata):
            its = f"{tuple(about.size)} {about.properties.dtype}"
            if sum(math.prod(chunk.sizes) for chunk in about.chunks) != math.prod(about.size):
                its += " in part"
        if its != (own := f"{tuple(tensor.shape)} {tensor.dtype}"):
            differences.append(f"{key} is {its}, here it is {own}")
    if not differences:
        return ""
    more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
    return f"{folder} belongs to another model or optimizer: {'; '.join(differences[:3])}{more}"


def _fitted(values: list[Any], wanted: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Return the groups as they were before JSON, which knows no tuples."""
    if not wanted:
        return []
    saved = [cast("dict[str, Any]", group) for group in values if isinstance(group, dict)]
    if [group.get("params") for group in saved] != [group["params"] for group in wanted]:
        raise CheckpointError(f"{folder} belongs to another optimizer: its groups are others")
    fitted: list[dict[str, Any]] = []
    for group, own in zip(saved, wanted, strict=True):
        odd = [key for key, value in own.items() if not _alike(group.get(key), value)]
        if odd:
            raise CheckpointError(
                f"{folder} belongs to another optimizer: a group has no good {', '.join(odd)}"
            )
        fitted.append(
            {k: tuple(v) if isinstance(own.get(k), tuple) else v for k, v in group.items()}
        )
    return fitted


def _alike(saved: object, own: object) -> bool:
    """Return whether a value of a group can be what the optimizer has; JSON knows no tuples."""
    if isinstance(own, (list, tuple)):
        size = len(cast("list[Any]", own))
        return isinstance(saved, list) and len(cast("list[Any]", saved)) == size
    if isinstance(own, bool) or own is None or isinstance(own, str):
        return type(saved) is type(own)
    return isinstance(saved, (int, float)) and not isinstance(saved, bool)


@contextmanager
def _alone_on_purpose() -> Generator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _cause(error: dcp.CheckpointException) -> Exception:
    """Return what one process met with, which torch tells to all of them."""
    causes = [cause for cause, _ in error.failures.values()]
    known = [cause for cause in causes if isinstance(cause, (OSError, CheckpointError))]
    if known:
        return known[0]
    return CheckpointError(f"the checkpoint failed: {causes[0]!r}" if causes else str(error))
