"""Training: prepared data in, a run directory out, told from top to bottom.

On several processes each of them goes through all of it, with its share of each batch; the main
one speaks and writes.
"""

import sys

import torch

from scratch.nn import TransformerLM, count_parameters, fast_matmul
from scratch.optim import clip_grad_norm
from scratch.train import (
    ALONE,
    Batch,
    Prefetch,
    TokenStream,
    WindowSampler,
    World,
    join_world,
    read_world,
    train_steps,
    window_batch,
)

from ..config import TrainSettings
from ..data.prepare import PreparedData
from ..device import choose_device
from ..runs.run import RunDirectory, build_model, with_d_ff
from ..using.score import next_token_loss
from ..watching.display import TrainingDisplay, say
from ..watching.trackers import Trackers, check_installed
from .compiling import build_loss, compile_blocks, loss_in
from .divergence import DivergenceDetector
from .ending import all_saved, bad_end_written_down
from .examining import evaluate_if_missing, evaluate_run, write_sample
from .looks import Pending, Totals, judge_steps, read_steps
from .micro_batch import largest_micro_batch
from .optimization import build_optimizer
from .pace import Pace, Stopwatch, total_steps
from .signals import Signals
from .spreading import (
    after_a_restart,
    check_alike,
    choose_parallel,
    lost_processes_told,
    resuming_command,
    spread,
)
from .stopping import Limits


def train(settings: TrainSettings, *, resume_command: str | None = None) -> RunDirectory:
    """Train as the settings say, from the start or from a checkpoint.

    A signal or a limit ends it early and in good order: with a checkpoint, and `resume_command`
    to go on, by default the one that repeats the run. Processes that torchrun started train
    together.

    Raises:
        ValueError: if settings, data and run directory do not fit together.
        NonFiniteError: if a loss or a gradient is not finite.
        DivergedError: if the loss goes up and stays there.
        MemoryError: if the batch is too large, with what to try.
        OSError: if something cannot be written; the newest checkpoint stays.
    """
    total_steps(settings)
    check_installed(settings.trackers)
    data = PreparedData.open(settings.data)
    device_type = choose_device(settings.device).type
    if settings.model.attention == "flex" and device_type == "cpu":
        raise ValueError(
            "model.attention must not be flex on a CPU, where torch has no gradient of it; "
            "auto, reference, block and fused have one"
        )
    choose_parallel(settings, read_world())  # what cannot be is told before anybody waits
    with join_world(device_type) as world, lost_processes_told(world):
        return _train_in(world, settings, data, resume_command)


def _train_in(
    world: World, settings: TrainSettings, data: PreparedData, resume_command: str | None
) -> RunDirectory:
    device = choose_device(settings.device)
    settings = after_a_restart(settings, world)
    check_alike(settings, data, world)
    settings = settings.model_copy(update={"model": with_d_ff(settings.model)})
    torch.manual_seed(settings.seed)  # pyright: ignore[reportUnknownMemberType]
    model = build_model(settings.model, vocab_size=data.tokenizer.vocab_size)
    run = RunDirectory(settings.out, world)
    if settings.init_from is not None and not world.on_main(run.checkpoint_steps):
        _load_initial_weights(RunDirectory(settings.init_from), model, data)
    model = model.to(device)
    sampler = WindowSampler(
        num_tokens=len(data.train),
        context_length=settings.model.context_length,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    with run.locked(), Signals() as signals:
        settings = _with_micro_batch(settings, run, model)
        run.begin(settings, data, device, parameters=count_parameters(model.config).total)
        with (
            bad_end_written_down(run, settings),
            lost_processes_told(world),
            Trackers.open(
                settings.trackers if world.is_main else (),
                run.path,
                settings.model_dump(mode="json"),
            ) as trackers,
        ):
            totals, stopped = _train(settings, run, model, sampler, data, signals, trackers)
            if stopped is None:
                run.save_weights(model)
                say(f"the weights are in {run.path / 'model.safetensors'}")
                evaluate_if_missing(run, model, data, totals, trackers)
                run.journal.end(totals["step"], "finished")
                return run
        run.journal.end(totals["step"], "stopped", stopped)
    command = resume_command or resuming_command(run.path / "config.toml", world)
    say(f"stopped after step {totals['step']:,} ({stopped}); go on with\n  {command}")
    return run


def _train(
    settings: TrainSettings,
    run: RunDirectory,
    model: TransformerLM,
    sampler: WindowSampler,
    data: PreparedData,
    signals: Signals,
    trackers: Trackers,
) -> tuple[Totals, str | None]:
    """Make the updates that are left; return the totals of the last, and why it ends early if so.

    Every checkpoint is on the disk before an evaluation begins, and when this ends.
    """
    world, device = run.world, model.head_weight.device
    if world.size == 1 and settings.parallel not in ("auto", "none"):
        say(f"{settings.parallel} is for several processes, which torchrun starts; this is one")
    limits = Limits(settings, signals, world)
    if world.size == 1:
        trial = micro_batches(data.train, sampler, 0, settings, device)[0]
        loss, compiled = build_loss(settings.precision, settings.compile, model, trial)
        learner = model
    else:
        compiled = compile_blocks(settings.precision, settings.compile, model, world)
        loss = loss_in(settings.precision, device, next_token_loss)
        learner = spread(model, settings, world, choose_parallel(settings, world))
    optimizer = build_optimizer(settings.optimizer, model, compiled=compiled)
    totals = run.restore(model, optimizer, step=settings.resume_step)
    history = run.journal.read()
    detector = DivergenceDetector(settings.divergence_nats)
    for record in history:
        if record.get("loss") is not None:
            detector.add(record["step"], record["loss"])
    watch = Stopwatch(totals["seconds"])
    pace = Pace(settings, watch, world)
    if totals["step"]:
        say(f"going on after step {totals['step']:,}")
        if totals["step"] % settings.evaluate_every == 0:
            with watch.paused():
                evaluate_if_missing(run, model, data, totals, trackers)
        if pace.fraction(totals["step"], totals["seconds"]) >= 1:
            return totals, None
        if (reason := limits.tokens_reached(totals["tokens"])) is not None:
            return totals, reason
    say(
        f"{count_parameters(model.config).total:,} parameters on {_places(device, world)}, "
        f"{len(data.train):,} tokens of {data.tokenizer.vocab_size:,} kinds to learn from"
    )
    start, stop, stopped = totals["step"], pace.steps or sys.maxsize, None
    pending: Pending = []  # steps whose losses nobody has read yet
    last_look = totals
    with (
        TrainingDisplay("training", history=history) as display,
        Prefetch(
            lambda done: micro_batches(data.train, sampler, done, settings, device, world),
            start=start,
            stop=stop,
        ) as batches,
        all_saved(run),
    ):
        for step in train_steps(
            learner,
            optimizer,
            batches,
            loss=loss,
            context=fast_matmul,
            schedule=pace.schedule(settings.optimizer),
            clip=lambda parameters: clip_grad_norm(parameters, settings.optimizer.max_grad_norm),
            world=world,
            start=start,
            stop=stop,
        ):
            number, seconds = step.number, pace.seconds
            totals = {
                "step": number,
                "tokens": totals["tokens"] + step.tokens,
                "seconds": seconds,
            }
            pending.append((step, totals))
            fraction = pace.fraction(number, seconds)
            finished = fraction >= 1
            evaluate = number % settings.evaluate_every == 0
            save = evaluate or number % settings.checkpoint_every == 0
            sample = settings.sample_every is not None and number % settings.sample_every == 0
            look = save or sample or number == 1 or number % settings.log_every == 0
            reason = limits.reached(number, int(totals["tokens"]), at_a_look=look)
            stopped = None if finished else reason
            over = finished or stopped is not None
            evaluate, save = evaluate and not over, save or over
            if not (look or over):
                continue
            records = read_steps(pending, last_look, model, processes=world.size)
            run.journal.append(records)
            for record in records:
                trackers.log(record)
            judge_steps(pending, detector, run)
            pending.clear()
            last_look = totals
            seconds_left = seconds / fraction * max(0.0, 1 - fraction)
            display.update(fraction, records[-1], earlier=records[:-1], seconds_left=seconds_left)
            with watch.paused():
                if save:
                    run.save_checkpoint(model, optimizer, number, keep=settings.keep_checkpoints)
                if evaluate:
                    run.checkpoints.wait()
                    for record in evaluate_run(run, model, data, totals, trackers):
                        display.evaluated(record)
                if sample:
                    write_sample(settings, run, model, data, totals)
            if over:
                break
    return totals, stopped


def micro_batches(
    tokens: TokenStream,
    sampler: WindowSampler,
    done: int,
    settings: TrainSettings,
    device: torch.device,
    world: World = ALONE,
) -> list[Batch]:
    """Return this process's share of the batch after `done` updates.

    In parts of `micro_batch_size` sequences.
    """
    starts = world.share(sampler.starts(done))
    size = settings.micro_batch_size or len(starts)
    assert size != "auto", "a number by now"
    return [
        window_batch(tokens, starts[first : first + size], sampler.context_length, device)
        for first in range(0, len(starts), size)
    ]


def _places(device: torch.device, world: World) -> str:
    return str(device) if world.size == 1 else f"{world.size} processes on {device.type}"


def _with_micro_batch(
    settings: TrainSettings, run: RunDirectory, model: TransformerLM
) -> TrainSettings:
    """Return the settings with a number for "auto": that of the run, or as many as fit."""
    if settings.micro_batch_size != "auto":
        return settings
    size = run.settings().micro_batch_size if run.checkpoint_steps() else None
    if size is None:
        size = largest_micro_batch(model, settings, model.head_weight.device)
        say(f"{size} of {settings.batch_size} sequences in memory at a time")
    return settings.model_copy(update={"micro_batch_size": size})


def _load_initial_weights(source: RunDirectory, model: TransformerLM, data: PreparedData) -> None:
    if source.tokenizer().vocabulary != data.tokenizer.vocabulary:
        raise ValueError(
            f"data must have the tokenizer of {source.path}, whose weights are to start with; "
            f"prepare it with --tokenizer {source.path / 'tokenizer.json'}"
        )
    try:
        model.load_state_dict(source.load_model(torch.device("cpu")).state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"model must have the shape of that in {source.path}, which --init-from brings along "
            f"unless other flags change it: {str(error).splitlines()[0]}"
        ) from None
