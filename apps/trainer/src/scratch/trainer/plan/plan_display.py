"""Plans as tables on stdout."""

import sys
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.table import Table

from ..training.memory_at_hand import USABLE_FRACTION
from ..watching.units import clock, short
from .gpt2_sizes import (
    A100_FLOAT32_FLOPS_PER_SECOND,
    TRAINING_BATCH,
    TRAINING_UPDATES,
    UTILIZATION,
    SizeAccount,
)
from .training_plan import TrainingPlan

_BYTE_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_FLOP_UNITS = (
    *((1e24, "YFLOP"), (1e21, "ZFLOP"), (1e18, "EFLOP"), (1e15, "PFLOP")),
    *((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP")),
)


def print_training_plan(plan: TrainingPlan) -> None:
    config = plan.config
    console = Console(file=sys.stdout, highlight=False)
    console.print(
        f"{plan.name}: {config.num_layers} layers of {config.d_model} features, "
        f"{config.num_heads} heads, context {config.context_length:,}, "
        f"vocabulary {config.vocab_size:,}",
        soft_wrap=True,
    )
    console.print(_parts_table(plan))
    console.print(_memory_table(plan))
    told = Table.grid(padding=(0, 2))
    for title, text in _told(plan):
        told.add_row(title, text)
    console.print(told)


def print_gpt2_table(accounts: Sequence[SizeAccount]) -> None:
    first = accounts[0]
    table = Table(
        title=f"GPT-2 sizes in our architecture: vocabulary {first.config.vocab_size:,}, "
        f"context {first.config.context_length:,}, float32",
    )
    table.add_column("")
    for account in accounts:
        table.add_column(account.name, justify="right")

    def row(title: str, value: Callable[[SizeAccount], str]) -> None:
        table.add_row(title, *(value(account) for account in accounts))

    row("layers", lambda a: f"{a.config.num_layers}")
    row("features", lambda a: f"{a.config.d_model:,}")
    row("heads", lambda a: f"{a.config.num_heads}")
    row("inner features", lambda a: f"{a.config.d_ff:,}")
    table.add_section()
    row("parameters", lambda a: short(a.parameters.total))
    row("  in memory", lambda a: as_bytes(a.memory.parameters_bytes))
    table.add_section()
    row("forward, one sequence", lambda a: as_flops(a.sequence_flops))
    row("  attention projections", lambda a: f"{a.shares['attention_projections']:.1%}")
    row("  attention scores", lambda a: f"{a.shares['attention_scores']:.1%}")
    row("  feed-forward", lambda a: f"{a.shares['feed_forward']:.1%}")
    row("  head", lambda a: f"{a.shares['head']:.1%}")
    table.add_section()
    row(f"training, batch {first.batch_size}", lambda a: as_bytes(a.memory.total_bytes))
    row("  parameters", lambda a: as_bytes(a.memory.parameters_bytes))
    row("  gradients", lambda a: as_bytes(a.memory.gradients_bytes))
    row("  AdamW's moments", lambda a: as_bytes(a.memory.optimizer_bytes))
    row("  activations", lambda a: as_bytes(a.memory.activations.total_bytes))
    row("largest batch in 80 GB", lambda a: f"{a.largest_batch:,}")
    table.add_section()
    row("an AdamW step", lambda a: as_flops(a.adamw_step_flops))
    row("days of training*", lambda a: f"{a.training_days:,.0f}")
    console = Console(file=sys.stdout, highlight=False)
    console.print(table)
    console.print(
        f"* {TRAINING_UPDATES:,} updates of {TRAINING_BATCH:,} sequences on one A100, at "
        f"{UTILIZATION:.0%} of {A100_FLOAT32_FLOPS_PER_SECOND / 1e12:g} TFLOP/s"
    )
    console.print("Memory is for fused attention, which keeps no matrix of scores.")


def as_bytes(number: float) -> str:
    return _scaled(number, _BYTE_UNITS, "B")


def as_flops(number: float) -> str:
    return _scaled(number, _FLOP_UNITS, "FLOP")


def duration(seconds: float) -> str:
    """Return a duration as a clock shows it, or in days if it is many."""
    return clock(seconds) if seconds < 48 * 3600 else f"{seconds / 86_400:,.1f} days"


def _scaled(number: float, units: Sequence[tuple[float, str]], plain: str) -> str:
    for size, unit in units:
        if number >= size * 0.9995:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} {plain}"


def _parts_table(plan: TrainingPlan) -> Table:
    parameters, flops = plan.parameters, plan.flops
    table = Table()
    table.add_column("part")
    for title in ("parameters", "share", "FLOPs a token*", "share"):
        table.add_column(title, justify="right")
    for title, weights, cost in (
        ("embedding", parameters.embedding, 0),
        ("attention projections", parameters.attention, flops.projections),
        ("attention scores", 0, flops.scores),
        ("feed-forward", parameters.feed_forward, flops.feed_forward),
        ("norms", parameters.norms, 0),
        ("head", parameters.head, flops.head),
    ):
        table.add_row(
            title,
            f"{weights:,}" if weights else "",
            f"{weights / parameters.total:.1%}" if weights else "",
            as_flops(cost) if cost else "",
            f"{cost / flops.forward:.1%}" if cost else "",
        )
    table.add_section()
    table.add_row("all", f"{parameters.total:,}", "", as_flops(flops.forward), "")
    table.caption = f"* forward; {as_flops(flops.total)} with the gradients"
    return table


def _memory_table(plan: TrainingPlan) -> Table:
    memory, kept = plan.memory, plan.memory.activations
    table = Table()
    table.add_column(f"memory, {plan.micro_batch:,} of {plan.settings.batch_size:,} at a time")
    table.add_column("", justify="right")
    for title, number in (
        ("parameters", memory.parameters_bytes),
        ("gradients", memory.gradients_bytes),
        ("state of the optimizer", memory.optimizer_bytes),
        ("kept for gradients", kept.total_bytes),
        ("  inputs of blocks", kept.block_inputs_bytes),
        ("  norms", kept.norms_bytes),
        ("  attention", kept.attention_bytes),
        ("  feed-forward", kept.feed_forward_bytes),
        ("  head", kept.head_bytes + kept.embedding_bytes),
        ("a block computed again", memory.recomputed_bytes),
    ):
        if number:
            table.add_row(title, as_bytes(number))
    table.add_section()
    table.add_row("all", as_bytes(memory.total_bytes))
    return table


def _told(plan: TrainingPlan) -> Iterator[tuple[str, str]]:
    settings, largest = plan.settings, plan.largest_micro_batch
    yield (
        "fits",
        f"{'not even 1' if largest is None else f'{largest:,}'} of {settings.batch_size:,} "
        f"sequences at a time on {plan.device}, within {USABLE_FRACTION:.0%} of the "
        f"{as_bytes(plan.free_bytes)} that are free",
    )
    each = (
        f"{settings.batch_size:,} x {plan.config.context_length:,} = "
        f"{plan.tokens_per_update:,} tokens"
    )
    if plan.updates is None or plan.tokens is None:
        yield "update", each
    else:
        yield "updates", f"{plan.updates:,} of {each}"
        of_data = ""
        if plan.data_tokens:
            times = plan.tokens / plan.data_tokens
            of_data = f", {times:.2g} times the {short(plan.data_tokens)} of the data"
        all_flops = as_flops(plan.tokens * plan.flops.total)
        yield "tokens", f"{short(plan.tokens)}{of_data}, which take {all_flops}"
    yield from _told_of_time(plan)


def _told_of_time(plan: TrainingPlan) -> Iterator[tuple[str, str]]:
    if plan.seconds is not None:
        yield "time", f"{duration(plan.seconds)}, evaluations and checkpoints not counted"
    burst, each, rate = plan.burst, plan.update_seconds, plan.tokens_per_second
    if burst is None or each is None or rate is None:
        return
    utilization = "" if plan.mfu is None else f", {plan.mfu:.1%} of the peak of the device (MFU)"
    yield "speed", f"{each:.3g} s an update, {rate:,.0f} tokens/s{utilization}"
    yield (
        "measured",
        f"on {plan.device}{', compiled' if burst.compiled else ''}: {burst.seconds:.2g} s, the "
        f"median of {burst.updates}, for an update of {burst.sequences:,}, of which "
        f"{burst.optimizer_seconds:.2g} s for clipping and the optimizer",
    )
