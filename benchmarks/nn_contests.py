"""Which programs of `bench_nn.py` run beside which, on what shape, and what must come out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Shape = dict[str, int]

MODEL: Shape = {
    "vocab_size": 4096, "context_length": 256, "d_model": 256, "num_layers": 4, "num_heads": 8,
    "d_ff": 704, "batch": 8,
}  # fmt: skip
STEPS = {
    "T256": MODEL,
    "T128": MODEL | {"context_length": 128},
    "vocab32k": MODEL | {"vocab_size": 32_000},
}
LOSS: Shape = {"tokens": 2048, "vocab_size": 32_000, "d_model": 512}
MUON: Shape = {"num_layers": 12, "d_model": 768, "d_ff": 3072}
GENERATION = MODEL | {"prompt": 16, "new_tokens": 200}

# GPT-2's and GPT-3's sizes with tied embeddings; d_ff is 8/3 d_model, rounded to a multiple of 64.
DEVICE_SIZES = {
    "124m": (768, 12, 12, 2048, 1024, 32),
    "350m": (1024, 24, 16, 2752, 1024, 16),
    "1.3b": (2048, 24, 16, 5440, 2048, 4),
}
DEVICE_VOCAB = 50_304

# `--tiny` cuts every size to these, to see that all of it runs.
TINY: Shape = {
    "vocab_size": 128, "context_length": 32, "d_model": 64, "num_layers": 2, "num_heads": 2,
    "d_ff": 128, "batch": 2, "tokens": 64, "prompt": 4, "new_tokens": 16,
}  # fmt: skip


@dataclass(frozen=True)
class Program:
    """What runs: whose, in which mode, with which matrix product.

    `gemm` is "stock" (torch as it comes), "onednn" (the public switch) or "shipped" (inside of
    `scratch.nn.fast_matmul`).
    """

    name: str
    mode: str = "eager"
    gemm: str = "stock"


@dataclass(frozen=True)
class Ratio:
    """One line of the table: a speed or a memory is better when greater, a time when smaller."""

    name: str
    ours: Program
    peer: Program
    must: str = ""
    moonshot: str = ""
    what: Literal["speed", "memory", "time"] = "speed"


@dataclass(frozen=True)
class Contest:
    """Programs that do the same work in turn, and the ratios to take."""

    job: str
    shape: dict[str, Any]
    ratios: tuple[Ratio, ...]
    # Whether the figures are to be compared within each round, with all the programs in memory.
    in_turn: bool = True

    @property
    def programs(self) -> list[Program]:
        """All that the ratios speak of, each once."""
        return list(dict.fromkeys(p for ratio in self.ratios for p in (ratio.ours, ratio.peer)))


@dataclass(frozen=True)
class Choice:
    """Which of the steps to measure."""

    shapes: tuple[str, ...] = tuple(STEPS)
    modes: tuple[str, ...] = ("eager", "compiled")


def step(choice: Choice) -> Iterator[Contest]:
    """A training step beside Llama's, the same matrix product on both sides."""
    must = {"T256": ("1.2", "1.2"), "T128": ("1.45", "1.4"), "vocab32k": ("1.5", "1.3")}
    moonshot = {"T256": ("1.6", "1.5")}
    for gemm in ("onednn", "stock"):
        for shape in choice.shapes:
            bars = [table.get(shape, ("", "")) for table in (must, moonshot)]
            ratios = tuple(
                Ratio(
                    f"step, transformers, {gemm}, {shape}, {mode}",
                    Program("scratch", mode, gemm),
                    Program("transformers", mode, gemm),
                    *(bar[mode == "compiled"] if gemm == "onednn" else "" for bar in bars),
                )
                for mode in choice.modes
            )
            yield Contest("step", STEPS[shape], ratios)


def shipped(choice: Choice) -> Iterator[Contest]:
    """A training step as our users run it beside Llama's as its users do."""
    for shape in choice.shapes:
        ratios = tuple(
            Ratio(
                f"step as shipped, transformers, {shape}, {mode}",
                Program("scratch", mode, "shipped"),
                Program("transformers", mode),
                "2.0" if shape == "vocab32k" else "1.8",
                "2.5",
            )
            for mode in choice.modes
        )
        yield Contest("step", STEPS[shape], ratios)


def builtin(choice: Choice) -> Iterator[Contest]:
    """A training step beside a GPT of torch's own layers."""
    for shape in choice.shapes:
        ratios = tuple(
            Ratio(
                f"step, torch.nn, onednn, {shape}, {mode}",
                Program("scratch", mode, "onednn"),
                Program("torch.nn", mode, "onednn"),
                "1.2",
                "1.8",
            )
            for mode in choice.modes
        )
        yield Contest("step", STEPS[shape], ratios)


def loss(choice: Choice) -> Iterator[Contest]:  # noqa: ARG001
    """The loss, forward and backward, with the product that makes the logits."""
    for gemm in ("stock", "onednn"):
        sides = Program("scratch", gemm=gemm), Program("torch", gemm=gemm)
        ratios = (
            Ratio(f"loss, F.cross_entropy, {gemm}", *sides, "1.1", "1.4"),
            Ratio(f"loss, F.cross_entropy, {gemm}, memory", *sides, "8", "14", "memory"),
        )
        yield Contest("loss", LOSS, ratios)


def adamw(choice: Choice) -> Iterator[Contest]:  # noqa: ARG001
    """A step of AdamW over the parameters of the model."""
    ratios = tuple(
        Ratio(
            f"AdamW {form}, torch fused, time",
            Program("scratch", form),
            Program("torch", "fused"),
            "<= 1.15" if form == "compiled" else "",
            what="time",
        )
        for form in ("loop", "foreach", "compiled")
    )
    yield Contest("adamw", MODEL, ratios)


def muon(choice: Choice) -> Iterator[Contest]:  # noqa: ARG001
    """A step of Muon over the hidden matrices of a GPT of 124M."""
    sides = Program("scratch"), Program("torch")
    yield Contest("muon", MUON, (Ratio("Muon, torch, time", *sides, "<= 1.0", what="time"),))


def generate(choice: Choice) -> Iterator[Contest]:
    """Greedy generation, with a cache and without, beside that of transformers."""
    peers = {
        "our loop without a cache": Program("no cache"),
        "transformers": Program("transformers"),
    }
    for batch, bars in ((1, ("7", "1.5")), (8, ("18", "1.15"))):
        ratios = tuple(
            Ratio(
                f"generate, {name}, batch {batch}, {mode}",
                Program("scratch", mode),
                peer,
                bar if mode == "eager" else "",
            )
            for mode in choice.modes
            for (name, peer), bar in zip(peers.items(), bars, strict=True)
        )
        yield Contest("generate", GENERATION | {"batch": batch}, ratios)


JOBS: dict[str, Callable[[Choice], Iterator[Contest]]] = {
    "step": step,
    "shipped": shipped,
    "builtin": builtin,
    "loss": loss,
    "adamw": adamw,
    "muon": muon,
    "generate": generate,
}


def device_contest(size: str, batch: int | None) -> Contest:
    """A compiled training step on an accelerator; one program in memory at a time."""
    d_model, num_layers, num_heads, d_ff, context_length, usual_batch = DEVICE_SIZES[size]
    shape = {
        "vocab_size": DEVICE_VOCAB, "context_length": context_length, "d_model": d_model,
        "num_layers": num_layers, "num_heads": num_heads, "d_ff": d_ff, "tie_embeddings": True,
        "batch": batch or usual_batch,
    }  # fmt: skip
    sides = Program("scratch", "compiled"), Program("transformers", "compiled")
    return Contest("step", shape, (Ratio(f"step, transformers, {size}", *sides),), in_turn=False)


def shrunk(contest: Contest) -> Contest:
    """Return the contest at a size that takes no time."""
    small = {name: min(value, TINY.get(name, value)) for name, value in contest.shape.items()}
    return Contest(contest.job, small, contest.ratios, contest.in_turn)
