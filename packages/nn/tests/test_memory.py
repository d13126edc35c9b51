"""The estimate of memory against the tensors that a step of training really keeps."""

import contextlib
from typing import Any, Literal
from weakref import WeakSet

import pytest
import torch
from torch import Tensor, nn

from scratch.nn import (
    ActivationMemory,
    MemoryEstimate,
    TransformerConfig,
    TransformerLM,
    count_parameters,
    memory_estimate,
    plain_forms,
)

# The one sequence of a batch of one is not copied where heads change places; the first block of a
# post-norm model reads the float32 embedding under autocast. Small tables aside, the rest is exact.
CLOSE, LOOSE = 1e-4, 0.05
F32, BF16, F64 = torch.float32, torch.bfloat16, torch.float64


def config(**changes: Any) -> TransformerConfig:
    sizes = {"vocab_size": 97, "context_length": 600, "d_model": 48, "num_layers": 2}
    return TransformerConfig(**{**sizes, "num_heads": 4, "d_ff": 112, **changes})


VARIANTS = {
    "base": config(),
    "grouped": config(num_kv_heads=2),
    "qk-norm": config(qk_norm="rms", num_kv_heads=1),
    "post": config(norm="post"),
    "bare": config(norm="none", position="none"),
    "silu": config(feed_forward="silu"),
    "relu2": config(feed_forward="relu2"),
    "tied-capped": config(tie_embeddings=True, logit_cap=5.0),
    "window": config(sliding_window=30),
    "reference": config(attention="reference", num_kv_heads=2),
    "fused": config(attention="fused", num_kv_heads=2),
    "fused-window": config(attention="fused", sliding_window=30),
    "unpadded": config(pad_vocab_to=1),
    "checkpointing": config(checkpointing="block"),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
every_form = pytest.mark.parametrize("forms", ["fast", "plain"])


class Held:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.data  # the tensor itself would hold the graph that holds it


def bytes_kept(call: Any, model: nn.Module, *given: Tensor, forms: str = "fast") -> int:
    """Return the size of all storages that autograd keeps of `call(*given)`, each once.

    Weights and what is given are left out.
    """
    alive: WeakSet[Held] = WeakSet()

    def hold(tensor: Tensor) -> Held:
        held = Held(tensor)
        alive.add(held)
        return held

    hooks = torch.autograd.graph.saved_tensors_hooks(hold, lambda held: held.tensor)
    with plain_forms() if forms == "plain" else contextlib.nullcontext(), hooks:
        out = call(*given)
    known = [*model.parameters(), *model.buffers(), *given]
    outside = {tensor.untyped_storage().data_ptr() for tensor in known}
    kept = {held.tensor.untyped_storage() for held in alive}
    sizes = {storage.data_ptr(): storage.nbytes() for storage in kept}
    assert out.requires_grad
    return sum(size for start, size in sizes.items() if start not in outside)


def check(
    variant: TransformerConfig,
    forms: Literal["fast", "plain"],
    *,
    batch_size: int = 3,
    seq: int = 160,
    dtype: torch.dtype = F32,
    autocast: torch.dtype | None = None,
    tolerance: float = CLOSE,
) -> None:
    model = TransformerLM(variant).to(dtype)
    ids, targets = torch.randint(97, (batch_size, seq)), torch.randint(97, (batch_size, seq))
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        kept = bytes_kept(lambda: model.loss(ids, targets), model, forms=forms)
    estimate = memory_estimate(
        variant,
        batch_size=batch_size,
        seq=seq,
        parameter_dtype=dtype,
        activation_dtype=autocast,
        forms=forms,
    )
    assert estimate.activations.total_bytes == pytest.approx(kept, rel=tolerance)


@every_variant
@every_form
def test_activations_are_those_that_are_kept(
    variant: TransformerConfig, forms: Literal["fast", "plain"]
) -> None:
    check(variant, forms)


@pytest.mark.parametrize("dtype", [BF16, F64], ids=str)
@pytest.mark.parametrize("name", ["qk-norm", "window", "reference", "checkpointing"])
@every_form
def test_models_of_another_dtype_keep_what_is_estimated(
    name: str, forms: Literal["fast", "plain"], dtype: torch.dtype
) -> None:
    check(VARIANTS[name], forms, dtype=dtype)


@every_variant
@every_form
def test_autocast_keeps_what_is_estimated(
    variant: TransformerConfig, forms: Literal["fast", "plain"]
) -> None:
    check(variant, forms, autocast=BF16, tolerance=LOOSE if variant.norm == "post" else CLOSE)


@pytest.mark.parametrize("name", ["base", "window"])
def test_long_sequences_keep_what_is_estimated(name: str) -> None:
    check(VARIANTS[name], "fast", batch_size=2, seq=600)


@every_form
def test_a_batch_of_one_is_near_the_estimate(forms: Literal["fast", "plain"]) -> None:
    check(VARIANTS["grouped"], forms, batch_size=1, tolerance=LOOSE)


@pytest.mark.parametrize("norm", ["pre", "post", "none"])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@every_form
def test_checkpointing_makes_one_block_again(
    norm: str, dtype: torch.dtype, forms: Literal["fast", "plain"]
) -> None:
    variant = config(checkpointing="block", norm=norm)
    model = TransformerLM(variant).to(dtype)
    x = torch.randn(3, 160, 48, dtype=dtype).requires_grad_()
    kept = bytes_kept(model.layers[0], model, x, forms=forms)
    estimate = memory_estimate(variant, batch_size=3, seq=160, parameter_dtype=dtype, forms=forms)
    assert estimate.recomputed_bytes == pytest.approx(kept, rel=CLOSE)
    assert estimate.activations.block_inputs_bytes == 2 * x.numel() * dtype.itemsize


@pytest.mark.parametrize("norm", ["pre", "none"])
@every_form
def test_checkpointing_makes_one_block_again_under_autocast(
    norm: str, forms: Literal["fast", "plain"]
) -> None:
    variant = config(checkpointing="block", norm=norm)
    model = TransformerLM(variant)
    x = torch.randn(3, 160, 48).requires_grad_() * 1  # of a leaf, autocast would make one copy
    with torch.autocast("cpu", BF16):
        kept = bytes_kept(model.layers[0], model, x, forms=forms)
    estimate = memory_estimate(variant, batch_size=3, seq=160, activation_dtype=BF16, forms=forms)
    assert estimate.recomputed_bytes == pytest.approx(kept, rel=CLOSE)


def test_checkpointing_saves_all_blocks_but_one() -> None:
    plain, saving = (
        memory_estimate(config(num_layers=12, checkpointing=way), batch_size=4)
        for way in ("none", "block")
    )
    inside = plain.activations.attention_bytes + plain.activations.feed_forward_bytes
    assert saving.activations.attention_bytes == saving.activations.feed_forward_bytes == 0
    assert plain.recomputed_bytes == 0
    assert saving.total_bytes < plain.total_bytes - 11 / 12 * inside


def test_weights_gradients_and_moments_are_counted() -> None:
    count = count_parameters(config()).total
    estimate = memory_estimate(config(), batch_size=1)
    assert estimate.parameters_bytes == estimate.gradients_bytes == 4 * count
    assert estimate.optimizer_bytes == 8 * count
    half = memory_estimate(
        config(), batch_size=1, parameter_dtype=BF16, optimizer_bytes_per_parameter=12
    )
    assert half.parameters_bytes == half.gradients_bytes == 2 * count
    assert half.optimizer_bytes == 12 * count


def test_moments_are_as_large_as_those_of_adamw() -> None:
    model = TransformerLM(config())
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.arange(20)
    model.loss(ids, ids).backward()
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    moments = sum(value.nbytes for value in states if value.ndim)
    assert memory_estimate(config(), batch_size=1).optimizer_bytes == moments


def test_totals_add_up() -> None:
    activations = ActivationMemory(
        embedding_bytes=1,
        block_inputs_bytes=2,
        norms_bytes=4,
        attention_bytes=8,
        feed_forward_bytes=16,
        head_bytes=32,
    )
    assert activations.total_bytes == 63
    estimate = MemoryEstimate(
        parameters_bytes=100,
        gradients_bytes=200,
        optimizer_bytes=400,
        activations=activations,
        recomputed_bytes=800,
    )
    assert estimate.total_bytes == 1563


def test_a_gpu_is_not_asked_for_all_scores() -> None:
    long = config(context_length=4096)
    on_gpu = memory_estimate(long, batch_size=1, device="cuda")
    assert on_gpu == memory_estimate(config(context_length=4096, attention="fused"), batch_size=1)
    whole = memory_estimate(config(context_length=4096, attention="block"), batch_size=1)
    assert whole.activations.attention_bytes > 4 * on_gpu.activations.attention_bytes


def test_a_window_on_a_gpu_makes_no_mask() -> None:
    auto, flex = config(sliding_window=30), config(sliding_window=30, attention="flex")
    on_gpu = memory_estimate(auto, batch_size=1, device="cuda")
    assert on_gpu == memory_estimate(flex, batch_size=1, device="cuda")


def test_float16_on_a_cpu_takes_the_whole_matrix_of_scores() -> None:
    half: dict[str, Any] = {"batch_size": 1, "parameter_dtype": torch.float16}
    auto, formula = config(), config(attention="reference")
    assert memory_estimate(auto, **half) == memory_estimate(formula, **half)


def test_shared_heads_are_not_repeated_on_a_gpu() -> None:
    few = config(num_kv_heads=1)
    on_cpu = memory_estimate(few, batch_size=2).activations.attention_bytes
    on_gpu = memory_estimate(few, batch_size=2, device="cuda").activations.attention_bytes
    assert on_cpu - on_gpu == 2 * 2 * 2 * 600 * (48 - 12) * 4  # keys and values, layers, sequences


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seq": 601}, "seq must be at most context_length=600, got 601"),
        ({"forms": "fancy"}, "forms must be one of fast, plain, got 'fancy'"),
        ({"optimizer_bytes_per_parameter": -1}, "optimizer_bytes_per_parameter must not be neg"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        memory_estimate(config(), **{"batch_size": 1, **changes})
