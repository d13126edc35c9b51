"""How many tokens a second many GPUs train on, predicted from one of them and their links.

Weights, gradients and state of P parameters are spread over the g processes of a group, and n / g
groups have the same: ddp is g = 1, fsdp is g = n, hsdp is between them. Of L blocks with P_b
parameters each, and of the P_r of the root (embedding, last norm, head), a process exchanges

    a = all-gather of 2 P_b bytes in the group (bfloat16 weights), before each pass of a block
    r = reduce-scatter of 4 P_b bytes in the group (float32 gradients), in the last micro-batch
    R = all-reduce of 4 P_b / g bytes between groups, in the last micro-batch

and a_r, r_r, R_r of the root, whose weights stay from the forward to the backward pass. While one
block is exchanged another computes, f forward and b = 2 f backward; only what comes first and what
comes last has nothing to hide behind:

    forward  = a_r + a + (L - 1) max(f, a) + f + f_r
    backward = b_r + a + (L - 1) max(b, a) + b
    last     = b_r + a + (L - 1) max(b, a + r, R) + b + r + R + r_r + R_r
    step     = A forward + (A - 1) backward + last + optimizer / g + exchanges of single numbers

for A micro-batches. There a and r are within a node and R has the links between nodes; where all of
them share links it is max(b, a + r + R).
"""

from dataclasses import dataclass
from typing import Literal, get_args

from .links import Group, Machine

Parallel = Literal["ddp", "fsdp", "hsdp"]

WEIGHT_BYTES, GRADIENT_BYTES = 2, 4
STATE_BYTES = 16  # weights, gradients and two moments in float32
BUCKET_BYTES = 25 << 20  # of gradients that DDP sends together, by default
USABLE_MEMORY = 0.9  # the rest is for CUDA, NCCL and what lies between blocks of memory


@dataclass(frozen=True, kw_only=True)
class Muon:
    """What Muon does on top: each process gathers every matrix, and makes it orthogonal itself.

    Attributes:
        parameters: in matrices of the blocks, whose float32 momentum is gathered.
        matrices: how many they are; each is gathered by itself.
        seconds: for making all of them orthogonal on one GPU.
    """

    parameters: int
    matrices: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A model, and how fast one GPU trains it.

    Attributes:
        parameters: all of them.
        layers: blocks.
        block_parameters: of each block; the rest is the root's.
        head_share: part of the operations of a token that the head takes.
        sequence_tokens: tokens of a sequence.
        activation_bytes: kept of a sequence from the forward to the backward pass.
        tokens_per_second: of one GPU, forward and backward.
        optimizer_seconds: of one GPU with the whole model, for clipping and the optimizer.
        muon: what that takes beyond, if it is the optimizer.
    """

    parameters: int
    layers: int
    block_parameters: int
    head_share: float
    sequence_tokens: int
    activation_bytes: float
    tokens_per_second: float
    optimizer_seconds: float
    muon: Muon | None = None

    @property
    def root_parameters(self) -> int:
        return self.parameters - self.layers * self.block_parameters


@dataclass(frozen=True, kw_only=True)
class Layout:
    """`gpus` processes in groups of `group`, each of which has the whole model."""

    parallel: Parallel
    gpus: int
    group: int

    @property
    def replicas(self) -> int:
        return self.gpus // self.group


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What a process takes part in, and sends, in one update.

    Attributes:
        all_gathers, reduce_scatters, all_reduces: how many. The buckets of DDP count as one.
        bytes_sent: by all of them, but for single numbers.
    """

    all_gathers: int
    reduce_scatters: int
    all_reduces: int
    bytes_sent: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """An update, as it should be.

    Attributes:
        micro_batches: of each process.
        tokens: of all processes.
        compute_seconds: forward and backward passes.
        exposed_seconds: what the exchange of weights and gradients adds to them.
        optimizer_seconds: clipping and the optimizer, with what is exchanged for that.
        memory_bytes: of each GPU.
    """

    layout: Layout
    micro_batches: int
    tokens: int
    compute_seconds: float
    exposed_seconds: float
    optimizer_seconds: float
    memory_bytes: float
    traffic: Traffic

    @property
    def step_seconds(self) -> float:
        return self.compute_seconds + self.exposed_seconds + self.optimizer_seconds

    @property
    def tokens_per_second(self) -> float:
        """Of all GPUs together."""
        return self.tokens / self.step_seconds

    @property
    def efficiency(self) -> float:
        """The part of the step that is forward and backward passes."""
        return self.compute_seconds / self.step_seconds


def lay_out(
    parallel: Parallel, *, gpus: int, machine: Machine, group_size: int | None = None
) -> Layout:
    """Return who has which part; groups of "hsdp" are nodes unless their size is given.

    Raises:
        ValueError: if groups of that size do not make up the GPUs.
    """
    if parallel not in get_args(Parallel):
        raise ValueError(f"parallel must be one of {', '.join(get_args(Parallel))}, got {parallel}")
    group = {"ddp": 1, "fsdp": gpus}.get(parallel)
    if group is None:
        group = min(gpus, machine.gpus_per_node) if group_size is None else group_size
    if gpus < 1 or group < 1 or gpus % group:
        raise ValueError(f"groups must make up all GPUs, got groups of {group} for {gpus} GPUs")
    return Layout(parallel=parallel, gpus=gpus, group=group)


def predict(
    workload: Workload, machine: Machine, layout: Layout, *, batch: int, micro_batches: int
) -> Prediction:
    """Predict an update of `batch` sequences, which each process sees in `micro_batches` parts.

    Raises:
        ValueError: if the batch cannot be divided like this.
    """
    share = _sequences_of_each(batch, layout)
    if micro_batches < 1 or share % micro_batches:
        raise ValueError(
            f"micro_batches must divide the {share} sequences of a process, got {micro_batches}"
        )
    compute = share * workload.sequence_tokens / workload.tokens_per_second
    passes = _passes_seconds(workload, machine, layout, compute, micro_batches)
    return Prediction(
        layout=layout,
        micro_batches=micro_batches,
        tokens=batch * workload.sequence_tokens,
        compute_seconds=compute,
        exposed_seconds=passes - compute,
        optimizer_seconds=_optimizer_seconds(workload, machine, layout),
        memory_bytes=memory_bytes(workload, layout, batch=batch, micro_batches=micro_batches),
        traffic=count_traffic(workload, machine, layout, micro_batches=micro_batches),
    )


def fewest_micro_batches(
    workload: Workload, machine: Machine, layout: Layout, *, batch: int
) -> int | None:
    """Return how often each process has to go over its share of `batch` sequences to have room.

    `None` if not even one sequence at a time has.
    """
    share = _sequences_of_each(batch, layout)
    for count in range(1, share + 1):
        if share % count == 0:
            needed = memory_bytes(workload, layout, batch=batch, micro_batches=count)
            if needed <= USABLE_MEMORY * machine.memory_bytes:
                return count
    return None


def memory_bytes(workload: Workload, layout: Layout, *, batch: int, micro_batches: int) -> float:
    """Return about what a GPU has to hold.

    Its part of weights, gradients and moments, and activations. Beside them, replicated: a copy of
    the weights in bfloat16. Sharded: the root and two blocks, gathered, and their gradients; while
    micro-batches are added up, gradients of the whole model.
    """
    held = STATE_BYTES * workload.parameters / layout.group
    if layout.parallel == "ddp":
        held += WEIGHT_BYTES * workload.parameters
    else:
        gathered = workload.root_parameters + 2 * workload.block_parameters
        added_up = workload.parameters if micro_batches > 1 else gathered
        held += WEIGHT_BYTES * gathered + GRADIENT_BYTES * added_up
    sequences = _sequences_of_each(batch, layout) / micro_batches
    return held + sequences * workload.activation_bytes


def count_traffic(
    workload: Workload, machine: Machine, layout: Layout, *, micro_batches: int
) -> Traffic:
    """Count what a process exchanges for an update: gradients, gathered weights, loss and norm."""
    shards, replicas = _groups(machine, layout)
    blocks = workload.layers * workload.block_parameters
    parts = workload.layers + 1
    sharded = layout.group > 1
    gradients = GRADIENT_BYTES * workload.parameters
    weights = WEIGHT_BYTES * (2 * blocks + workload.root_parameters) * micro_batches
    gathers = (2 * workload.layers + 1) * micro_batches if sharded else 0
    reduces = 0
    if layout.replicas > 1:
        reduces = 1 if layout.parallel == "ddp" else parts
    sent = shards.shared_bytes(weights) + shards.shared_bytes(gradients)
    sent += replicas.reduced_bytes(gradients / layout.group)
    if sharded and workload.muon is not None:
        gathers += workload.muon.matrices
        sent += shards.shared_bytes(4 * workload.muon.parameters)
    return Traffic(
        all_gathers=gathers,
        reduce_scatters=parts if sharded else 0,
        all_reduces=reduces + (layout.gpus > 1) + sharded,  # the loss, the norm
        bytes_sent=sent,
    )


def _passes_seconds(
    workload: Workload, machine: Machine, layout: Layout, compute: float, micro_batches: int
) -> float:
    shards, replicas = _groups(machine, layout)
    block, root = workload.block_parameters, workload.root_parameters

    def reduced(parameters: int) -> float:
        size = GRADIENT_BYTES * parameters / layout.group
        calls = size / BUCKET_BYTES if layout.parallel == "ddp" else 1
        return replicas.reduce_seconds(size, calls=calls)

    gather, gather_root = (shards.share_seconds(WEIGHT_BYTES * part) for part in (block, root))
    scatter, scatter_root = (shards.share_seconds(GRADIENT_BYTES * part) for part in (block, root))
    reduce, reduce_root = reduced(block), reduced(root)

    once = compute / micro_batches
    forward_root, backward_root = workload.head_share * once / 3, workload.head_share * once * 2 / 3
    forward = (1 - workload.head_share) * once / 3 / workload.layers
    backward = 2 * forward
    others = workload.layers - 1
    first = gather_root + gather + others * max(forward, gather) + forward + forward_root
    between = backward_root + gather + others * max(backward, gather) + backward
    apart = shards.nodes == 1 < replicas.nodes
    slowest = max(gather + scatter, reduce) if apart else gather + scatter + reduce
    last = backward_root + gather + others * max(backward, slowest) + backward
    last += scatter + reduce + scatter_root + reduce_root
    return micro_batches * first + (micro_batches - 1) * between + last


def _optimizer_seconds(workload: Workload, machine: Machine, layout: Layout) -> float:
    shards, _ = _groups(machine, layout)
    seconds = workload.optimizer_seconds / layout.group
    seconds += machine.group(layout.gpus).reduce_seconds(0)  # the loss
    if layout.parallel != "ddp":
        seconds += shards.reduce_seconds(0)  # the norm of the gradients
    if workload.muon is not None:
        muon = workload.muon
        seconds += muon.seconds + shards.share_seconds(4 * muon.parameters, calls=muon.matrices)
    return seconds


def _groups(machine: Machine, layout: Layout) -> tuple[Group, Group]:
    """Return the group that shares a model, and the one whose members have the same share."""
    return (
        machine.group(layout.group),
        machine.group(layout.replicas, stride=layout.group),
    )


def _sequences_of_each(batch: int, layout: Layout) -> int:
    if batch < 1 or batch % layout.gpus:
        raise ValueError(
            f"the number of GPUs must divide the batch, got {batch} sequences "
            f"for {layout.gpus} GPUs"
        )
    return batch // layout.gpus
