"""Whose processes do the work: those of a running Dask cluster, or those that MPI has started.

Where the files are split, the merges learnt and the manifests written is one process, the caller's;
the others count words and encode shards. All of them must see the files by the same paths.
"""

from collections.abc import Generator
from concurrent.futures import CancelledError, Executor
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..watching.display import say

MPI = "mpi"

_CONNECTING_SECONDS = 10


@contextmanager
def workers_of(cluster: str) -> Generator[Executor]:
    """Give an executor that works by the processes of `cluster`.

    Args:
        cluster: "mpi", the address of a Dask scheduler, or the file that one was told to write.

    Of the processes of MPI, the first gets the executor. The others work until its block ends, and
    exit.

    Raises:
        ValueError: if it is none of these, or there is but one process of MPI.
        ImportError: if what it takes is not installed.
        OSError: if the scheduler does not answer or is lost, or workers are lost again and again.
    """
    opened = _mpi() if cluster == MPI else _dask(cluster)
    with opened as executor:
        yield executor


@contextmanager
def _dask(cluster: str) -> Generator[Executor]:
    where = _scheduler(cluster)
    try:
        dask = import_module("dask.distributed")
    except ImportError:
        raise _not_installed(cluster, "dask") from None
    try:
        client: Any = dask.Client(**where, timeout=_CONNECTING_SECONDS)
    except OSError as error:
        raise ConnectionError(
            f"cluster must be a Dask scheduler that answers, got {cluster}: {error}; "
            "start one with: dask scheduler"
        ) from None
    with client:
        workers = _versions(client)
        if workers:
            say(f"workers: {len(workers)}, by {cluster}")
        else:
            say(f"{cluster} has no workers yet; waiting for them, as of: dask worker ADDRESS")
        try:
            # Work that is asked for again is done again: a result may be a file that is gone.
            with client.get_executor(pure=False) as executor:
                yield executor
        except dask.KilledWorker as error:
            raise ChildProcessError(
                f"the workers on which one piece of work was tried were lost, the last of them "
                f"{error.last_worker.address}, perhaps for lack of memory; the same command goes on"
            ) from None
        except CancelledError:
            raise ConnectionError(
                f"the scheduler {cluster} was lost; start it and its workers again, "
                "and the same command goes on"
            ) from None


def _versions(client: Any) -> dict[str, str]:
    """Return which version of scratch-bpe each worker has: all must have that of this process.

    A scheduler reads the work too, so it needs one as well.
    """
    name = "scratch-bpe"
    found: dict[str, Any] = client.run(version, name, on_error="return")
    try:
        scheduler: Any = client.run_on_scheduler(version, name)
    except PackageNotFoundError as error:
        scheduler = error
    for place, its in {**found, "the scheduler": scheduler}.items():
        if its != version(name):
            its = "none" if isinstance(its, Exception) else its
            raise ValueError(
                f"cluster must have {name} {version(name)} on all machines, as this one, "
                f"got {its} on {place}; install it in the environment there, and start that again"
            )
    return found


def _scheduler(cluster: str) -> dict[str, str]:
    if "://" in cluster:
        return {"address": cluster}
    if Path(cluster).is_file():
        return {"scheduler_file": cluster}
    raise ValueError(
        f"cluster must be {MPI}, the address of a Dask scheduler as tcp://HOST:8786, or the file "
        f"that one wrote for its --scheduler-file, got {cluster}"
    )


@contextmanager
def _mpi() -> Generator[Executor]:
    try:
        world: Any = import_module("mpi4py.MPI").COMM_WORLD
        futures = import_module("mpi4py.futures")
    except (ImportError, RuntimeError):  # the latter if there is no library of MPI itself
        raise _not_installed(MPI, "mpi") from None
    if world.Get_size() < 2:
        raise ValueError(
            "cluster mpi must have at least 2 processes, of which one tells the others what to do, "
            "got 1; start them with: mpiexec -n 8 trainer prepare ... --cluster mpi"
        )
    with futures.MPICommExecutor(world, root=0) as executor:
        if executor is not None:
            say(f"workers: {world.Get_size() - 1}, by {MPI}")
            yield executor
    if executor is None:
        raise SystemExit(0)


def _not_installed(cluster: str, extra: str) -> ImportError:
    return ImportError(
        f'cluster {cluster} takes an extra: pip install "scratch-trainer[{extra}]"'
        + (", and an MPI such as Open MPI or MPICH" if extra == "mpi" else "")
    )
