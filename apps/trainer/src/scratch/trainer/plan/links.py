"""How long processes take to exchange what they have, by the links between them.

The model is the one by which NCCL chooses among its algorithms (src/graph/tuning.cc): what a
process sends over the bandwidth that it has, and a latency for every hop on the way. All-gather and
reduce-scatter go around a ring, an all-reduce up and down a tree.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Link:
    """A way out of a GPU.

    Attributes:
        bytes_per_second: of data, in one direction.
        hop_seconds: from one GPU to the next, however little is sent.
    """

    bytes_per_second: float
    hop_seconds: float

    def __post_init__(self) -> None:
        if not (self.bytes_per_second > 0 and self.hop_seconds >= 0):
            raise ValueError(
                "a link must have bytes_per_second above 0 and hop_seconds of at least 0, "
                f"got {self.bytes_per_second} and {self.hop_seconds}"
            )


@dataclass(frozen=True, kw_only=True)
class Machine:
    """GPUs in nodes.

    Attributes:
        gpus_per_node: GPUs that reach each other without a network.
        inside: the link of a GPU to others of its node.
        between: its link to other nodes.
        memory_bytes: of a GPU.
        memory_bytes_per_second: how fast it reads and writes that.
    """

    gpus_per_node: int
    inside: Link
    between: Link
    memory_bytes: float
    memory_bytes_per_second: float

    def group(self, size: int, *, stride: int = 1) -> "Group":
        """Return the group of `size` processes, one a GPU, whose ranks are `stride` apart.

        Raises:
            ValueError: if its nodes have different numbers of them.
        """
        of_a_node = max(1, self.gpus_per_node // stride)
        if size < 1 or (size > of_a_node and size % of_a_node):
            raise ValueError(
                f"a group must fill its nodes, or be within one, got {size} processes, "
                f"{stride} apart, on nodes of {self.gpus_per_node}"
            )
        nodes = max(1, size // of_a_node)
        return Group(size=size, nodes=nodes, inside=self.inside, between=self.between)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Processes that exchange tensors, an equal number of them on each of `nodes`."""

    size: int
    nodes: int
    inside: Link
    between: Link

    @property
    def bytes_per_second(self) -> float:
        """What a process sends and receives at a time.

        As many rings as there are processes on a node leave that node through one adapter each, so
        that all links between nodes work together.
        """
        if self.nodes == 1:
            return self.inside.bytes_per_second
        together = self.size / self.nodes * self.between.bytes_per_second
        return min(self.inside.bytes_per_second, together) if self.size > self.nodes else together

    def shared_bytes(self, whole_bytes: float) -> float:
        """Return what a process sends in an all-gather or reduce-scatter: (n - 1) / n of it all."""
        return whole_bytes * (self.size - 1) / self.size

    def share_seconds(self, whole_bytes: float, *, calls: float = 1) -> float:
        """Return how long an all-gather or a reduce-scatter takes, or several of so much in all."""
        hops_inside, hops_between = self.size - self.nodes, self.nodes - 1
        latency = hops_inside * self.inside.hop_seconds + hops_between * self.between.hop_seconds
        return calls * latency + self.shared_bytes(whole_bytes) / self.bytes_per_second

    def reduced_bytes(self, whole_bytes: float) -> float:
        """Return what a process sends in an all-reduce: 2 (n - 1) / n of it all."""
        return 2 * self.shared_bytes(whole_bytes)

    def reduce_seconds(self, whole_bytes: float, *, calls: float = 1) -> float:
        """Return how long an all-reduce takes, or several of so much in all."""
        hops_inside, hops_between = self.size / self.nodes - 1, math.log2(self.nodes)
        latency = hops_inside * self.inside.hop_seconds + hops_between * self.between.hop_seconds
        return calls * 2 * latency + self.reduced_bytes(whole_bytes) / self.bytes_per_second
