"""What predictions of `scaling` start from: models, cards, and what others have published of them.

Nothing here was measured by us. Where a figure is from is said in docs/scaling.md.
"""

from dataclasses import dataclass

from scratch.nn import TransformerConfig, count_parameters, flops_per_token, memory_estimate

from .links import Link, Machine
from .scaling import Muon, Parallel, Workload

# Reading a gradient for its norm, and scaling it; then weight, gradient and two moments are read,
# and all but the gradient written, 4 bytes each.
_OPTIMIZER_BYTES = 4 + 8 + 16 + 12
_MUON_STEPS, _GRAM_RESTARTS, _GRAM_RATIO = 5, 2, 2  # as in scratch.optim

# Of the 450 GB/s of NVLink in one direction NCCL reaches 370, of the 50 of an adapter 46.
_NVLINK = Link(bytes_per_second=370e9, hop_seconds=3.4e-6)
_INFINIBAND = Link(bytes_per_second=46e9, hop_seconds=14e-6)
PEAK_FLOPS_PER_SECOND = 989e12  # of both cards, dense bfloat16
CARDS = {
    "H100": Machine(
        gpus_per_node=8,
        inside=_NVLINK,
        between=_INFINIBAND,
        memory_bytes=80e9,
        memory_bytes_per_second=3.35e12,
    ),
    "H200": Machine(
        gpus_per_node=8,
        inside=_NVLINK,
        between=_INFINIBAND,
        memory_bytes=141e9,
        memory_bytes_per_second=4.8e12,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model, how fast an H100 trains it, and what batch suits it.

    Attributes:
        tokens_per_second: of one GPU.
        batch: sequences of an update.
    """

    config: TransformerConfig
    tokens_per_second: float
    batch: int


def _gpt(layers: int, d_model: int, d_ff: int, heads: int, context: int) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=50_304,
        context_length=context,
        d_model=d_model,
        num_layers=layers,
        num_heads=heads,
        d_ff=d_ff,
        tie_embeddings=True,
    )


SIZES = {
    "124M": Size(
        config=_gpt(12, 768, 2048, 12, 1024), tokens_per_second=524_288 / 0.140 / 8, batch=512
    ),
    "1.3B": Size(config=_gpt(24, 2048, 5440, 16, 2048), tokens_per_second=45_455, batch=512),
    "7B": Size(config=_gpt(32, 4096, 10_944, 32, 2048), tokens_per_second=10_643, batch=2048),
}


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """What others have measured on one number of GPUs.

    Attributes:
        batch, micro_batches: sequences of an update, and in how many parts each GPU takes its own.
        tokens_per_second: of each GPU.
    """

    gpus: int
    batch: int
    micro_batches: int
    tokens_per_second: float


@dataclass(frozen=True, kw_only=True)
class PublishedRuns:
    """One model on H100s, on more and more of them."""

    name: str
    parallel: Parallel
    config: TransformerConfig
    runs: tuple[PublishedRun, ...]


_LLAMA_8B = TransformerConfig(
    vocab_size=128_256,
    context_length=8192,
    d_model=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    d_ff=14_336,
)


def _runs(*of: tuple[int, int, int, float]) -> tuple[PublishedRun, ...]:
    return tuple(
        PublishedRun(gpus=gpus, batch=batch, micro_batches=parts, tokens_per_second=rate)
        for gpus, batch, parts, rate in of
    )


PUBLISHED = (
    PublishedRuns(
        name="llm.c 124M",
        parallel="ddp",
        config=SIZES["124M"].config,
        runs=_runs((8, 512, 1, 524_288 / 0.140 / 8)),
    ),
    PublishedRuns(
        name="llm-foundry 1B",
        parallel="fsdp",
        config=SIZES["1.3B"].config,
        runs=_runs(
            (8, 112, 1, 45_455), (16, 320, 1, 46_037), (32, 640, 1, 45_130), (64, 1280, 1, 44_402)
        ),
    ),
    PublishedRuns(
        name="llm-foundry 3B",
        parallel="fsdp",
        config=_gpt(32, 2560, 6848, 20, 2048),
        runs=_runs((16, 480, 3, 24_142), (32, 576, 3, 23_021), (64, 1152, 3, 22_525)),
    ),
    PublishedRuns(
        name="llm-foundry 7B",
        parallel="fsdp",
        config=SIZES["7B"].config,
        runs=_runs((8, 48, 1, 10_643)),
    ),
    PublishedRuns(
        name="llm-foundry 13B",
        parallel="fsdp",
        config=_gpt(40, 5120, 13_632, 40, 2048),
        runs=_runs((8, 16, 1, 4_792), (16, 32, 1, 4_767), (32, 64, 1, 4_811), (64, 128, 1, 4_800)),
    ),
    PublishedRuns(
        name="torchtitan 8B",
        parallel="fsdp",
        config=_LLAMA_8B,
        runs=_runs((8, 16, 1, 6_667), (128, 256, 1, 6_514)),
    ),
)


def make_workload(
    config: TransformerConfig,
    machine: Machine,
    *,
    tokens_per_second: float,
    optimizer_seconds: float | None = None,
    muon: bool = False,
) -> Workload:
    """Return what there is to do for `config`, which one GPU does at `tokens_per_second`.

    Args:
        optimizer_seconds: for clipping and the optimizer, the whole model on one GPU; by default
            as long as its memory takes for what AdamW reads and writes.
        muon: whether the matrices of the blocks are made orthogonal, at the rate in FLOP/s of the
            forward and backward passes.
    """
    parameters, flops = count_parameters(config), flops_per_token(config)
    root = parameters.embedding + parameters.head + (config.d_model if config.norm != "none" else 0)
    if optimizer_seconds is None:
        moved = _OPTIMIZER_BYTES * parameters.total
        optimizer_seconds = moved / machine.memory_bytes_per_second
    return Workload(
        parameters=parameters.total,
        layers=config.num_layers,
        block_parameters=(parameters.total - root) // config.num_layers,
        head_share=flops.head / flops.forward,
        sequence_tokens=config.context_length,
        activation_bytes=_activation_bytes(config),
        tokens_per_second=tokens_per_second,
        optimizer_seconds=optimizer_seconds,
        muon=_muon(config, flops.total * tokens_per_second) if muon else None,
    )


def _activation_bytes(config: TransformerConfig) -> int:
    """Return what one sequence more keeps, by `memory_estimate` of autocast to bfloat16."""
    import torch

    one, two = (
        memory_estimate(
            config, batch_size=size, activation_dtype=torch.bfloat16, device="cuda"
        ).activations.total_bytes
        for size in (1, 2)
    )
    return two - one


def orthogonalization_flops(rows: int, columns: int) -> int:
    """Return the operations of five steps of `newton_schulz`, as "auto" makes them on a GPU."""
    small, large = sorted((rows, columns))
    square, wide = 2 * small**3, 2 * small**2 * large
    if large < _GRAM_RATIO * small:
        return _MUON_STEPS * (2 * wide + square)
    segments = 1 + _GRAM_RESTARTS  # each takes X twice, and every step after its first four squares
    return segments * (2 * wide + square) + (_MUON_STEPS - segments) * 4 * square


def _muon(config: TransformerConfig, flops_per_second: float) -> Muon:
    d_model, d_kv = config.d_model, config.d_model * config.kv_heads // config.num_heads
    maps = 3 if config.feed_forward == "swiglu" else 2
    shapes = 2 * [(d_model, d_model)] + 2 * [(d_kv, d_model)] + maps * [(config.d_ff, d_model)]
    flops = config.num_layers * sum(orthogonalization_flops(*shape) for shape in shapes)
    parameters = count_parameters(config)
    return Muon(
        parameters=parameters.attention + parameters.feed_forward,
        matrices=config.num_layers * len(shapes),
        seconds=flops / flops_per_second,
    )
