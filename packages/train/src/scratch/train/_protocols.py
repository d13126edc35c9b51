"""What training asks of others. Nothing here knows who keeps these promises."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Stateful(Protocol):
    """Can be written down and restored."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> object: ...


@runtime_checkable
class Model(Stateful, Protocol):
    """Has parameters that learn, and answers a batch of inputs."""

    def __call__(self, inputs: Tensor, /) -> Tensor: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...


@runtime_checkable
class Optimizer(Stateful, Protocol):
    """Changes the parameters by their gradients; reads its learning rate from its groups."""

    param_groups: list[dict[str, Any]]

    def step(self) -> object: ...
    def zero_grad(self) -> object: ...


@runtime_checkable
class MaskedOptimizer(Optimizer, Protocol):
    """Can be told on the device, by a boolean scalar, whether to step at all."""

    def masked_step(self, finite: Tensor, /) -> object: ...


@runtime_checkable
class GradientSynchronizer(Protocol):
    """Averages gradients over processes in the backward pass, unless it is told not to."""

    def set_requires_gradient_sync(self, requires_gradient_sync: bool, /) -> object: ...


@runtime_checkable
class Resharding(Protocol):
    """Has weights that are spread over processes, and lets go of those it has gathered."""

    def reshard(self) -> object: ...


@runtime_checkable
class BinaryWriter(Protocol):
    """A file to write to, as far as checkpoints need one."""

    def write(self, data: bytes | memoryview, /) -> object: ...
    def flush(self) -> object: ...


@runtime_checkable
class BinaryReader(Protocol):
    """A file to read from, as far as checkpoints need one."""

    def read(self, size: int = -1, /) -> bytes: ...
    def readline(self) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...
    def seekable(self) -> bool: ...
