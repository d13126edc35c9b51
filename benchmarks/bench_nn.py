"""scratch-nn and scratch-optim beside `transformers` and torch's own layers and optimizers.

Every program is a process of its own on one core. It gets ready, compiles, and then the programs of
a contest run in turn, round by round, so that what disturbs one disturbs the others. Prints a JSON
line for each program, with the medians, then a table of ratios, each the median of the ratios of
the rounds. Losses, gradients, updates and ids are compared before times.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nn_contests import (
    DEVICE_SIZES,
    JOBS,
    STEPS,
    Choice,
    Contest,
    Program,
    Ratio,
    device_contest,
    shrunk,
)

Facts = dict[str, Any]

# How far answers may be apart, as |a - b| / |b|. Muon in bfloat16 is a matter of 0.02 with the
# coefficients of torch and of 0.2 with others; the gradient itself would be 0.6 away.
TOLERANCES = {"step": 1e-4, "loss": 1e-4, "adamw": 1e-3, "muon": 0.3}
NARROW_TOLERANCE = 0.02


def main() -> None:
    """Parse the flags, measure, and print."""
    options = parse()
    if options.device:
        contests = [device_contest(options.size, options.batch)]
    else:
        choice = Choice(tuple(options.shapes), tuple(options.modes))
        contests = [contest for job in options.jobs for contest in JOBS[job](choice)]
    table: list[tuple[Ratio, float]] = []
    for contest in contests:
        table += hold(shrunk(contest) if options.tiny else contest, options)
    print_table(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", nargs="*", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--shapes", nargs="*", choices=list(STEPS), default=list(STEPS))
    modes = ["eager", "compiled"]
    parser.add_argument(
        "--modes",
        nargs="*",
        choices=modes,
        default=modes,
        help="of training steps and of our generation",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each program in a round")
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall",
        help="cpu: time on the core, for a machine that has other work to do",
    )  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="see that all runs; measures nothing")
    device = parser.add_argument_group("a training step on an accelerator, in place of the jobs")
    device.add_argument("--device", choices=["cuda", "cpu"])
    device.add_argument("--size", choices=list(DEVICE_SIZES), default="124m")
    device.add_argument("--batch", type=int, help="sequences a step")
    device.add_argument(
        "--precision", choices=["autocast", "bf16"], default="autocast",
        help="bfloat16 by autocast over float32 weights, or weights in bfloat16",
    )  # fmt: skip
    options = parser.parse_args()
    if options.device == "cuda" and options.clock == "cpu":
        parser.error("--clock cpu does not see what an accelerator does")
    return options


def hold(contest: Contest, options: argparse.Namespace) -> list[tuple[Ratio, float]]:
    """Hold a contest, print the medians of its programs, and return its ratios."""
    answers: dict[Program, Facts] = {}
    rounds: dict[Program, list[Facts]] = {}
    groups = [contest.programs] if contest.in_turn else [[p] for p in contest.programs]
    for group in groups:
        with ExitStack() as stack:
            workers: dict[Program, Worker] = {}
            for program in group:
                worker = Worker(contest, program, options)
                workers[program] = stack.enter_context(worker)
                answers[program] = worker.answers
                compare(contest, answers, options)
                rounds[program] = []
            for _ in range(options.rounds):
                for program, worker in workers.items():
                    rounds[program].append(worker.work(options.seconds, options.clock))
    for program in contest.programs:
        print(json.dumps(line(contest, program, answers[program], rounds[program], options)))
    sys.stdout.flush()
    return [(ratio, measured(ratio, rounds)) for ratio in contest.ratios]


class Worker:
    """A process that runs one program whenever it is told to."""

    def __init__(self, contest: Contest, program: Program, options: argparse.Namespace) -> None:
        self.name = f"{contest.job} of {program.name}, {program.mode}, {program.gemm}"
        print(f"making ready: {self.name}", file=sys.stderr, flush=True)
        order = {
            "job": contest.job, "program": program.name, "mode": program.mode,
            "gemm": program.gemm, "shape": contest.shape, "threads": 1,
        }  # fmt: skip
        if options.device:
            order |= {"device": options.device, "precision": options.precision}
        script = str(Path(__file__).with_name("nn_jobs.py"))
        pipes: Facts = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        cores = pin() if options.device != "cuda" else None
        try:
            self.process = subprocess.Popen([sys.executable, script, json.dumps(order)], **pipes)
        finally:
            if cores:
                os.sched_setaffinity(0, cores)
        try:
            self.answers = self._read()
        except BaseException:
            self.process.kill()
            raise

    def work(self, seconds: float, clock: str) -> Facts:
        """Let it work for some seconds; return what it measured by the clock."""
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        facts = self._read()
        on_core = facts.pop("cpu_seconds")
        return facts | {"seconds": on_core} if clock == "cpu" else facts

    def _read(self) -> Facts:
        if not (answer := self.process.stdout.readline()):
            raise SystemExit(f"{self.name}: the process died with status {self.process.wait()}")
        return json.loads(answer)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def pin() -> set[int] | None:
    """Bind this process, and those it starts, to one core; return those it had."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    return cores


def compare(contest: Contest, found: dict[Program, Facts], options: argparse.Namespace) -> None:
    """Stop if the latest program does not what the first one did."""
    first, *_, latest = (facts["answers"] for facts in (*found.values(), *found.values()))
    program = list(found)[-1].name
    if contest.job == "generate":
        same = equal_tokens(latest["ids"], first["ids"])
        found[list(found)[-1]]["equal_tokens"] = same
        if same == 0:
            raise SystemExit(f"generate: {program} begins with other ids, so nothing to compare")
        return
    tolerance = NARROW_TOLERANCE if options.device else TOLERANCES[contest.job]
    for name, values in latest.items():
        apart = math.dist(values, first[name]) / math.hypot(*first[name])
        if not apart <= tolerance:
            raise SystemExit(
                f"{contest.job}: {program} gives another {name}: {apart:.2g} apart, more than "
                f"{tolerance}: {values[:4]}, not {first[name][:4]}"
            )


def equal_tokens(rows: list[list[int]], others: list[list[int]]) -> int:
    """Return how many tokens are equal in every row before the first that is not."""
    columns = zip(zip(*rows, strict=True), zip(*others, strict=True), strict=True)
    differing = (place for place, (one, other) in enumerate(columns) if one != other)
    return next(differing, len(rows[0]))


def line(
    contest: Contest,
    program: Program,
    hello: Facts,
    rounds: list[Facts],
    options: argparse.Namespace,
) -> Facts:
    """Return what is to be known about one program."""
    seconds = statistics.median(facts["seconds"] for facts in rounds)
    result: Facts = {"job": contest.job, "program": program.name, "mode": program.mode}
    result |= {"gemm": program.gemm, "shape": contest.shape}
    if options.device:
        result["precision"] = options.precision
    if tokens := hello["tokens"]:
        result["tokens_per_second"] = round(tokens / seconds, 1)
    else:
        result["milliseconds"] = round(seconds * 1e3, 4)
    if "equal_tokens" in hello:
        result["equal_tokens"] = hello["equal_tokens"]
    for name in ("peak_mb", "mfu", "device"):
        values = [facts[name] for facts in rounds if facts.get(name) is not None]
        if values:
            result[name] = values[0] if name == "device" else round(statistics.median(values), 4)
    result["clock"], result["runs"] = options.clock, sum(facts["runs"] for facts in rounds)
    return result | about(options.rounds)


def about(rounds: int) -> Facts:
    """Return what a figure is worth nothing without."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {
        "rounds": rounds, "threads": 1, "torch": version("torch"),
        "transformers": version("transformers"), "python": platform.python_version(),
        "cpu": cpu_model(), "commit": commit.stdout.strip() or None,
    }  # fmt: skip


def cpu_model() -> str:
    try:
        for row in Path("/proc/cpuinfo").read_text().splitlines():
            if row.startswith("model name"):
                return row.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def measured(ratio: Ratio, rounds: dict[Program, list[Facts]]) -> float:
    """Return the median over the rounds of peer over ours, or, of a time, of ours over peer."""
    figure = "peak_mb" if ratio.what == "memory" else "seconds"
    pairs = zip(rounds[ratio.ours], rounds[ratio.peer], strict=True)
    found = [
        (peer[figure] or math.nan) / max(ours[figure] or math.nan, 1e-9) for ours, peer in pairs
    ]
    median = statistics.median(found)
    return 1 / median if ratio.what == "time" else median


def print_table(rows: list[tuple[Ratio, float]]) -> None:
    """Print the ratios as a Markdown table."""
    print("\n| ours against | must reach | moonshot | measured |\n|---|---|---|---|")
    for ratio, value in rows:
        print(f"| {ratio.name} | {ratio.must} | {ratio.moonshot} | {value:.2f}x |")


if __name__ == "__main__":
    main()
