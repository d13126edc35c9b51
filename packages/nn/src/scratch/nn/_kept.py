"""What each form of each layer keeps for its gradients.

The fast forms say in their own words what they keep; for the plain ones it is what autograd keeps
of each operator. Not counted: what lives within a single operation, such as a chunk of logits, and
what an allocator rounds up.
"""

from dataclasses import astuple, dataclass

import torch

from ._accounting import attention_weights, feed_forward_weights, linear_maps
from ._backends import (
    _LONGEST_FOR_BLOCKS,  # pyright: ignore[reportPrivateUsage]
    _QUERIES_OF_A_BLOCK,  # pyright: ignore[reportPrivateUsage]
)
from ._block_causal import _blocks  # pyright: ignore[reportPrivateUsage]
from ._config import TransformerConfig


@dataclass(frozen=True, kw_only=True)
class ActivationMemory:
    """Bytes kept from the forward pass to the backward pass, by the part that keeps them.

    Attributes:
        embedding_bytes: the ids.
        block_inputs_bytes: inputs of blocks that are to be computed again.
        norms_bytes: what norms read, of blocks and before the head; norms of heads too.
        attention_bytes: what projections and attention read, and the weights of attention.
        feed_forward_bytes: what the feed-forward networks keep.
        head_bytes: what head and loss keep. The fast form has made the gradients of hidden states
            and weight by then; that of the weight goes on to be the weight's gradient.
    """

    embedding_bytes: int
    block_inputs_bytes: int
    norms_bytes: int
    attention_bytes: int
    feed_forward_bytes: int
    head_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return sum(astuple(self))


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Bytes kept by each part of a model.

    Blocks add to the stream; what they compute inside, under autocast in its dtype, is inner.
    """

    config: TransformerConfig
    batch: int
    seq: int
    parameter_dtype: torch.dtype
    inner_dtype: torch.dtype
    plain: bool
    device_type: str

    def activations(self) -> ActivationMemory:
        """Return what is kept from the forward pass to the backward pass."""
        config = self.config
        checkpointing = config.checkpointing == "block"
        inside = 0 if checkpointing else config.num_layers
        final_norm = 0
        if config.norm != "none":
            final_norm = self.norm(config.d_model, 1, self.stream_dtype)
        return ActivationMemory(
            embedding_bytes=self.tokens * torch.int64.itemsize,
            block_inputs_bytes=config.num_layers * self.stream() if checkpointing else 0,
            norms_bytes=inside * self.block_norms() + final_norm,
            attention_bytes=inside * self.attention(),
            feed_forward_bytes=inside * self.feed_forward(),
            head_bytes=self.head(),
        )

    def made_again(self) -> int:
        """Return what a block computed a second time keeps beside its input."""
        config = self.config
        if config.checkpointing == "none":
            return 0
        inside = self.block_norms() + self.attention() + self.feed_forward()
        if config.norm == "pre" and self.plain:
            keeps_its_input = self.wide(self.stream_dtype) == self.stream_dtype.itemsize
        else:
            keeps_its_input = config.norm == "pre" or self.read_dtype == self.inner_dtype
        return inside - self.stream() if keeps_its_input else inside

    @property
    def autocast(self) -> bool:
        return self.parameter_dtype != self.inner_dtype

    @property
    def read_dtype(self) -> torch.dtype:
        """What linear maps are given; fast norms round to the dtype of autocast."""
        fast_norms = self.config.norm != "none" and not self.plain
        return self.inner_dtype if fast_norms else self.parameter_dtype

    @property
    def stream_dtype(self) -> torch.dtype:
        return self.read_dtype if self.config.norm == "post" else self.parameter_dtype

    def stream(self) -> int:
        return self.tokens * self.config.d_model * self.stream_dtype.itemsize

    @property
    def tokens(self) -> int:
        return self.batch * self.seq

    @property
    def inner(self) -> int:
        """Bytes of a number of the inner dtype."""
        return self.inner_dtype.itemsize

    def wide(self, dtype: torch.dtype) -> int:
        """Bytes of a number of the dtype in which sums are made."""
        return torch.promote_types(dtype, torch.float32).itemsize

    def norm(self, features: int, rows_per_token: int, dtype: torch.dtype) -> int:
        """One norm of `features` a token: its input and a number for each row.

        The plain form keeps the input widened, and the normed values before their weight.
        """
        wide = self.wide(dtype)
        numbers = 2 * wide if self.plain else dtype.itemsize
        return self.tokens * (features * numbers + rows_per_token * wide)

    def block_norms(self) -> int:
        config = self.config
        kept = 0
        if config.norm != "none":
            kept += 2 * self.norm(config.d_model, 1, self.stream_dtype)
        if config.qk_norm != "none":
            heads = config.num_heads + config.kv_heads
            kept += self.norm(heads * config.d_head, heads, self.inner_dtype)
        return kept

    def read_by(self, maps: int, weights: int) -> int:
        """What `maps` linear maps of one input keep of it; under autocast, of the weights too."""
        copies = 1 if self.read_dtype == self.inner_dtype else maps
        copied_weights = weights * self.inner if self.autocast else 0
        return self.tokens * self.config.d_model * self.inner * copies + copied_weights

    def feed_forward(self) -> int:
        config = self.config
        maps = linear_maps(config) - 1
        numbers = 3  # a, sigmoid(a) or max(a, 0), and the product or square
        if config.feed_forward == "swiglu":
            numbers = 5 if self.plain else 4  # b; the plain form keeps silu(a) too
        inside = self.tokens * config.d_ff * numbers * self.inner
        return self.read_by(maps, feed_forward_weights(config)) + inside

    def attention(self) -> int:
        config = self.config
        tables = 0
        if config.position == "rope" and not self.plain:
            # a complex number for each pair, once for queries and once for keys
            tables = 2 * self.seq * config.d_head * self.wide(self.inner_dtype)
        gathered = self.tokens * config.d_model * self.inner  # what the output projection reads
        return self.read_by(3, attention_weights(config)) + tables + self.gathering() + gathered

    def gathering(self) -> int:
        """What the backend keeps: queries, keys, values and what is needed of the scores."""
        backend = self.backend()
        config = self.config
        rows = self.batch * config.num_heads  # of matrices of scores
        wide = self.wide(self.inner_dtype)
        queries = self.tokens * config.d_model
        keys = queries  # shared keys and values are repeated
        if backend == "flex" or (backend == "fused" and self.device_type != "cpu"):
            keys = self.tokens * config.kv_heads * config.d_head
        if backend == "reference":
            q_and_k = (queries + keys) * (self.inner if self.autocast else wide)
            scores = rows * (self.seq**2 * (wide + self.inner) + self.seq * wide)
            return q_and_k + keys * self.inner + scores + self.seq**2  # and the mask
        q_k_v_out = (2 * queries + 2 * keys) * self.inner
        sums = rows * self.seq * wide
        if backend == "block":
            seen = _blocks(self.seq, _QUERIES_OF_A_BLOCK, config.sliding_window)
            numbers = sum((q[1] - q[0]) * (k[1] - k[0]) for q, k in seen)
            return q_k_v_out + sums + rows * numbers * self.inner
        masked = backend == "fused" and config.sliding_window is not None
        return q_k_v_out + sums + (self.seq**2 * self.inner if masked else 0)

    def backend(self) -> str:
        """Name the backend that is used; the choice of "auto" is that of `automatic_attention`."""
        config = self.config
        if config.attention != "auto":
            return config.attention
        if self.plain:
            return "reference"
        if self.device_type == "cuda":
            return "fused" if config.sliding_window is None else "flex"
        if self.device_type == "cpu":
            if self.inner_dtype == torch.float16:
                return "reference"
            if self.seq <= _LONGEST_FOR_BLOCKS:
                return "block"
        return "fused"

    def head(self) -> int:
        config = self.config
        weights = config.vocab_size * config.d_model
        if not self.plain:
            hidden = self.tokens * config.d_model * self.read_dtype.itemsize
            size = self.parameter_dtype.itemsize
            if size == self.wide(self.parameter_dtype):  # else rounded to it without the padding
                weights += -config.vocab_size % config.pad_vocab_to * config.d_model
            return hidden + weights * size
        wide = self.wide(self.inner_dtype)
        logits = config.vocab_size * (self.inner + wide)  # themselves and their exponentials
        if config.logit_cap is not None:
            logits += config.vocab_size * self.inner
        per_token = logits + wide + torch.int64.itemsize  # and a sum and a target
        return self.read_by(1, weights) + self.tokens * per_token
