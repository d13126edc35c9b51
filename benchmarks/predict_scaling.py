"""Predict tokens a second on many GPUs, and print the tables of docs/scaling.md.

    predictions  tokens/s of all GPUs, and which part of the time they compute
    memory       micro-batches of a GPU, and gigabytes that it has to hold
    traffic      gigabytes that a GPU sends in an update
    muon         the same with Muon for the matrices of the blocks
    check        what the formula says of runs that others have published

Nothing is measured here. With a plan made on one GPU (`trainer plan FILE --json`), or with rates of
your own, the predictions are for your model and machine.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from scratch.nn import TransformerConfig
from scratch.trainer.plan.links import Link, Machine
from scratch.trainer.plan.scaling import (
    Parallel,
    Prediction,
    Workload,
    fewest_micro_batches,
    lay_out,
    predict,
)
from scratch.trainer.plan.scaling_inputs import CARDS, PUBLISHED, SIZES, make_workload

GPUS = (8, 64, 512)
LAYOUTS: tuple[Parallel, ...] = get_args(Parallel)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model on a number of GPUs.

    Attributes:
        batch: sequences of an update.
        micro_batches: of each GPU; `None` for as few as memory allows.
    """

    model: str
    machine: Machine
    gpus: int
    batch: int
    micro_batches: int | None
    workload: Workload

    @property
    def ways(self) -> list[Parallel]:
        """How the model can be spread; on one node there are no groups to tell apart."""
        several_nodes = self.gpus > self.machine.gpus_per_node
        return [name for name in LAYOUTS if name != "hsdp" or several_nodes]

    def predict(self, parallel: Parallel) -> Prediction | None:
        """Predict an update; `None` if that does not fit."""
        layout = lay_out(parallel, gpus=self.gpus, machine=self.machine)
        count = self.micro_batches
        if count is None:
            count = fewest_micro_batches(self.workload, self.machine, layout, batch=self.batch)
        if count is None:
            return None
        return predict(self.workload, self.machine, layout, batch=self.batch, micro_batches=count)

    def fastest(self) -> Prediction | None:
        fitting = [prediction for name in self.ways if (prediction := self.predict(name))]
        return max(fitting, key=lambda prediction: prediction.tokens_per_second, default=None)


def main() -> None:
    """Print what is asked for."""
    parser = make_parser()
    options = parser.parse_args()
    try:
        print(told(options))
    except (ValueError, OSError) as error:
        parser.error(str(error))


def told(options: argparse.Namespace) -> str:
    if options.table == "check":
        return as_json(check_rows()) if options.json else check_table()
    cases = list(make_cases(options))
    if options.json:
        return as_json(row for case in cases for row in case_rows(case))
    return TABLES[options.table](cases)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", choices=[*TABLES, "check"], default="predictions")
    parser.add_argument("--json", action="store_true", help="a line for each prediction")
    what = parser.add_argument_group("what is trained")
    what.add_argument(
        "--size",
        nargs="+",
        choices=list(SIZES),
        default=list(SIZES),
        metavar="SIZE",
        help=f"some of {', '.join(SIZES)}; by default all",
    )
    what.add_argument("--plan", type=Path, help="printed by `trainer plan --json` on one GPU")
    what.add_argument("--batch", type=int, help="sequences of an update, of all GPUs together")
    what.add_argument("--tokens-per-second", type=float, help="of one GPU, forward and backward")
    what.add_argument("--optimizer", choices=["adamw", "muon"], default="adamw")
    where = parser.add_argument_group("where")
    where.add_argument("--card", choices=list(CARDS), default="H100")
    where.add_argument("--gpus", nargs="+", type=int, default=list(GPUS))
    where.add_argument("--gpus-per-node", type=int)
    where.add_argument("--inside-gbytes", type=float, help="GB/s of a GPU, one way, in its node")
    where.add_argument("--between-gbytes", type=float, help="the same, to other nodes")
    where.add_argument("--micro-batches", type=int, help="by default as few as memory allows")
    return parser


def make_cases(options: argparse.Namespace) -> Iterator[Case]:
    """Yield the cases that the options ask for."""
    machine = _machine(options)
    for model, config, rate, optimizer_seconds, batch in _models(options):
        workload = make_workload(
            config,
            machine,
            tokens_per_second=rate,
            optimizer_seconds=optimizer_seconds,
            muon=options.optimizer == "muon" or options.table == "muon",
        )
        for gpus in options.gpus:
            yield Case(
                model=model, machine=machine, gpus=gpus, batch=batch,
                micro_batches=options.micro_batches, workload=workload,
            )  # fmt: skip


def _machine(options: argparse.Namespace) -> Machine:
    machine = CARDS[options.card]
    if options.gpus_per_node is not None:
        machine = replace(machine, gpus_per_node=options.gpus_per_node)
    if options.inside_gbytes is not None:
        machine = replace(machine, inside=_faster(machine.inside, options.inside_gbytes))
    if options.between_gbytes is not None:
        machine = replace(machine, between=_faster(machine.between, options.between_gbytes))
    return machine


def _faster(link: Link, gbytes: float) -> Link:
    return replace(link, bytes_per_second=gbytes * 1e9)


def _models(
    options: argparse.Namespace,
) -> Iterator[tuple[str, TransformerConfig, float, float | None, int]]:
    """Yield name, config, tokens/s of a GPU, seconds of the optimizer if measured, and batch."""
    if options.plan is None:
        if options.tokens_per_second and len(options.size) > 1:
            raise ValueError(
                f"--tokens-per-second is of one model, got {len(options.size)}; choose with --size"
            )
        for name in options.size:
            size = SIZES[name]
            rate = options.tokens_per_second or size.tokens_per_second
            yield name, size.config, rate, None, options.batch or size.batch
        return
    plan: dict[str, Any] = json.loads(options.plan.read_text())
    if "measured" not in plan:
        raise ValueError(f"--plan needs what `trainer plan --json` prints, got {options.plan}")
    measured, config = plan["measured"], TransformerConfig(**plan["model"])
    if measured is None and options.tokens_per_second is None:
        raise ValueError(
            f"--plan needs a plan that measured, got {options.plan}, made with --no-measure; "
            "give --tokens-per-second, or make it without"
        )
    rate, optimizer_seconds = options.tokens_per_second, None
    if measured is not None:
        optimizer_seconds = measured["optimizer_seconds"]
        passes = measured["seconds"] - optimizer_seconds
        rate = rate or measured["sequences"] * config.context_length / passes
    yield plan["name"], config, rate, optimizer_seconds, options.batch or plan["batch_size"]


# --- tables


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _by_layout(cases: Sequence[Case], cell: Callable[[Case, Prediction], str]) -> str:
    def tell(case: Case, name: Parallel) -> str:
        if name not in case.ways:
            return ""
        prediction = case.predict(name)
        return "does not fit" if prediction is None else cell(case, prediction)

    rows = [
        [case.model, f"{case.gpus}", _share(case), *[tell(case, name) for name in LAYOUTS]]
        for case in cases
    ]
    return table(["model", "GPUs", "a GPU's share", *LAYOUTS], rows)


def _share(case: Case) -> str:
    return f"{case.batch // case.gpus} x {case.workload.sequence_tokens}"


def prediction_table(cases: Sequence[Case]) -> str:
    def cell(case: Case, prediction: Prediction) -> str:
        rate = _short(prediction.tokens_per_second)
        rate = f"**{rate}**" if prediction == case.fastest() else rate
        return f"{rate}, {prediction.efficiency:.0%}"

    return _by_layout(cases, cell)


def memory_table(cases: Sequence[Case]) -> str:
    def cell(case: Case, prediction: Prediction) -> str:
        sequences = case.batch // case.gpus // prediction.micro_batches
        return f"{prediction.micro_batches} of {sequences}, {prediction.memory_bytes / 1e9:.0f} GB"

    return _by_layout(cases, cell)


def traffic_table(cases: Sequence[Case]) -> str:
    def cell(_: Case, prediction: Prediction) -> str:
        return f"{_significant(prediction.traffic.bytes_sent / 1e9)} GB"

    return _by_layout(cases, cell)


def muon_table(cases: Sequence[Case]) -> str:
    """Compare Muon with AdamW, each spread as is fastest for it."""
    rows: list[list[str]] = []
    for case in cases:
        adamw = replace(case, workload=replace(case.workload, muon=None)).fastest()
        muon = case.fastest()
        if muon is None or adamw is None or case.workload.muon is None:
            continue
        rows.append(
            [
                case.model, f"{case.gpus}", f"{case.workload.muon.seconds * 1e3:,.0f} ms",
                *[f"{p.step_seconds * 1e3:,.0f} ms, {p.layout.parallel}" for p in (adamw, muon)],
                _short(muon.tokens_per_second),
            ]
        )  # fmt: skip
    titles = ["model", "GPUs", "orthogonal", "update, AdamW", "update, Muon", "tokens/s, Muon"]
    return table(titles, rows)


def check_rows() -> list[dict[str, Any]]:
    """Predict what others have published, from the rate that they had on the fewest GPUs."""
    machine, rows = CARDS["H100"], list[dict[str, Any]]()
    for published in PUBLISHED:
        rate = published.runs[0].tokens_per_second
        workload = make_workload(published.config, machine, tokens_per_second=rate)
        for run in published.runs:
            layout = lay_out(published.parallel, gpus=run.gpus, machine=machine)
            prediction = predict(
                workload, machine, layout, batch=run.batch, micro_batches=run.micro_batches
            )
            predicted = prediction.tokens_per_second / run.gpus
            rows.append(
                {
                    "run": published.name, "parallel": published.parallel, "gpus": run.gpus,
                    "published": run.tokens_per_second, "predicted": predicted,
                    "off": predicted / run.tokens_per_second - 1,
                }
            )  # fmt: skip
    return rows


def check_table() -> str:
    rows = [
        [
            f"{row['run']}, {row['parallel']}", f"{row['gpus']}",
            f"{row['published']:,.0f}", f"{row['predicted']:,.0f}", f"{row['off']:+.1%}",
        ]
        for row in check_rows()
    ]  # fmt: skip
    return table(["run", "GPUs", "published, a GPU", "predicted", "off by"], rows)


def case_rows(case: Case) -> Iterator[dict[str, Any]]:
    for name in case.ways:
        row = {"model": case.model, "gpus": case.gpus, "parallel": name, "batch": case.batch}
        prediction = case.predict(name)
        if prediction is None:
            yield {**row, "fits": False}
            continue
        yield {
            **row,
            "fits": True,
            **{key: value for key, value in asdict(prediction).items() if key != "layout"},
            "step_seconds": prediction.step_seconds,
            "tokens_per_second": prediction.tokens_per_second,
            "efficiency": prediction.efficiency,
        }


def as_json(rows: Iterable[dict[str, Any]]) -> str:
    return "\n".join(json.dumps(row, allow_nan=False) for row in rows)


def _short(number: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size * 0.9995:
            return f"{_significant(number / size)}{unit}"
    return _significant(number)


def _significant(number: float) -> str:
    """Return three digits, without an exponent where there are more before the point."""
    return f"{number:,.0f}" if number >= 99.95 else f"{number:.3g}"


TABLES: dict[str, Callable[[Sequence[Case]], str]] = {
    "predictions": prediction_table,
    "memory": memory_table,
    "traffic": traffic_table,
    "muon": muon_table,
}

if __name__ == "__main__":
    main()
