"""A sweep: one training for each combination of settings, then the comparison.

Each training is a process of its own, so that one that fails takes nothing along. What is to be
done is in `sweep.json`, what is done in the runs: given again, a sweep does what is missing.
"""

import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..commands import ReportSettings, SweepSettings
from ..runs.run_files import RunFiles
from ..training.signals import Signals
from ..watching.display import say
from ..watching.units import clock
from .processes import Elsewhere, Process, Start, start_training
from .sweep_display import AtWork, print_results
from .sweep_plan import Training, plan_sweep, train_command, write_plan
from .sweep_results import Best, Result, find_best, ranked, read_result

# A training that diverged would diverge again.
_FINAL = ("finished", "diverged")
_POLL_SECONDS = 0.1

WriteReport = Callable[[ReportSettings], object]


def print_sweep(
    settings: SweepSettings,
    *,
    start: Start = start_training,
    write_report: WriteReport | None = None,
) -> None:
    """Train what is left to be trained, and print the comparison.

    Raises:
        ValueError: if settings are wrong, before anything is trained; or if a training failed, at
            the end. One that diverged is a result.
        KeyboardInterrupt: if it was interrupted, when the trainings have stopped.
    """
    trainings = plan_sweep(settings)
    out = settings.out
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock").acquire(timeout=0):
            write_plan(out / "sweep.json", trainings)
            failures = Sweep(out, trainings, settings.parallel, start).run()
    except Timeout:
        raise ValueError(f"{out} is in use by another sweep") from None
    results = [read_result(t, out / t.name, failures.get(t.name, "")) for t in trainings]
    report = _report(out, results, write_report)
    best = find_best(results)
    if settings.json_output:
        print(json.dumps(_as_json(out, results, best, report), allow_nan=False))
    else:
        print_results(results)
        _print_next(out, best, report)
    failed = [result for result in results if result.status not in (*_FINAL, "stopped")]
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(results)} trainings failed: "
            + "; ".join(f"{result.training.name}: {result.reason}" for result in failed)
            + f"; what they said is in {out / 'logs'}, and the same command tries them again"
        )


class Sweep:
    """Trainings of which so many at a time are at work."""

    def __init__(
        self, out: Path, trainings: Sequence[Training], parallel: int, start: Start
    ) -> None:
        self._out = out
        self._trainings = trainings
        self._waiting: list[Training] = []
        self._parallel = parallel
        self._start = start
        self._at_work: dict[str, tuple[Training, Process, float]] = {}
        self._failures: dict[str, str] = {}

    def run(self) -> dict[str, str]:
        """Do all trainings that are not finished; return why some failed, by their names.

        On SIGINT or SIGTERM they are told to stop, save a checkpoint each, and are waited for; a
        second signal ends them at once. Raises `KeyboardInterrupt` then.
        """
        self._waiting = [t for t in self._trainings if not self._is_final(t)]
        if skipped := len(self._trainings) - len(self._waiting):
            say(f"{skipped} of {len(self._trainings)} trainings are done already")
        (self._out / "logs").mkdir(exist_ok=True)
        try:
            with Signals() as signals, AtWork(self._out) as display:
                while (self._waiting or self._at_work) and signals.received is None:
                    while self._waiting and len(self._at_work) < self._parallel:
                        self._begin(self._waiting.pop(0))
                    display.show([training for training, _, _ in self._at_work.values()])
                    self._collect()
                    time.sleep(_POLL_SECONDS if self._at_work else 0)
                if signals.received is not None:
                    self._stop(signals.received)
        finally:
            for _, process, _ in self._at_work.values():
                process.kill()
                process.wait()
        return self._failures

    def _is_final(self, training: Training) -> bool:
        return read_result(training, self._out / training.name).status in _FINAL

    def _begin(self, training: Training) -> None:
        path = self._out / training.name
        if RunFiles(path).is_locked():  # as when a sweep was killed, but not its trainings
            say(f"{training.name}: waiting for another trainer, which is at work on it")
            self._at_work[training.name] = (training, Elsewhere(path), time.monotonic())
            return
        number = 1 + self._trainings.index(training)
        say(f"{number}/{len(self._trainings)} {training.name}: begins")
        arguments = [*train_command(training, path), "--resume"]
        process = self._start(arguments, self._log(training), self._parallel)
        self._at_work[training.name] = (training, process, time.monotonic())

    def _collect(self) -> None:
        """Take note of the trainings that have ended."""
        for name, (training, process, begin) in list(self._at_work.items()):
            code = process.poll()
            if code is None:
                continue
            del self._at_work[name]
            if isinstance(process, Elsewhere) and not self._is_final(training):
                self._waiting.insert(0, training)
                continue
            if code:
                self._failures[name] = _tell_failure(code, self._log(training))
            result = read_result(training, self._out / name, self._failures.get(name, ""))
            if result.status == "new":  # whatever its process thinks
                self._failures[name] = "it has written nothing"
            told = f": {result.reason}" if result.reason else ""
            if result.figures.val_loss is not None and result.status == "finished":
                told = f", held-out loss {result.figures.val_loss:.4f}"
            say(f"{name}: {result.status} after {clock(time.monotonic() - begin)}{told}")

    def _stop(self, reason: str) -> None:
        if self._at_work:
            say(f"{reason}: waiting for {len(self._at_work)} to save; once more ends them at once")
        for _, process, _ in self._at_work.values():
            process.terminate()
        for _, process, _ in self._at_work.values():
            process.wait()
        self._at_work.clear()
        again = ["trainer", "sweep", "--out", str(self._out)]
        again += ["--parallel", str(self._parallel)] if self._parallel > 1 else []
        say(f"to go on: {shlex.join(again)}")
        raise KeyboardInterrupt

    def _log(self, training: Training) -> Path:
        return self._out / "logs" / f"{training.name}.txt"


def _tell_failure(code: int, log: Path) -> str:
    """Return why a process ended with a code: its last line, or the signal that ended it."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return f"ended by {name}{hint}"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("trainer: ") if said else f"exit code {code}"


def _report(out: Path, results: Sequence[Result], write_report: WriteReport | None) -> Path | None:
    """Write the report, if there is anything to report; return where it is."""
    if not any(result.figures.step for result in results):
        return None
    if write_report is None:
        from ..report.report import write_report as write_report
    page = out / "report.html"
    with redirect_stdout(sys.stderr):  # where it tells, as part of a sweep, is progress
        write_report(ReportSettings(runs=(out,), out=page))
    return page


def _print_next(out: Path, best: Best | None, report: Path | None) -> None:
    if best is not None:
        name, spread = best.result.training.name, ""
        if best.spread is not None:
            spread = f", {best.mean:.4f} ± {best.spread:.4f} over {best.trainings} seeds"
        print(f"best: {name}{spread}")
        print(f"  again:     {shlex.join(_again(out, best))}")
        print(f"  generate:  {shlex.join(['trainer', 'generate', str(best.result.path)])}")
    if report is not None:
        print(f"  report:    {report}")


def _again(out: Path, best: Best) -> list[str]:
    """Return the command that does the best training once more, beside the sweep."""
    return ["trainer", *train_command(best.result.training, out.with_name(f"{out.name}-best"))]


def _as_json(
    out: Path, results: Sequence[Result], best: Best | None, report: Path | None
) -> dict[str, Any]:
    return {
        "out": str(out),
        "runs": [
            {
                "name": result.training.name,
                "path": str(result.path),
                "settings": result.training.values,
                **asdict(result.figures),
                "status": result.status,
                "reason": result.reason,
            }
            for result in ranked(results)
        ],
        "best": None
        if best is None
        else {
            "name": best.result.training.name,
            "path": str(best.result.path),
            "mean_loss": best.mean,
            "spread": best.spread,
            "trainings": best.trainings,
            "command": _again(out, best),
        },
        "report": None if report is None else str(report),
    }
