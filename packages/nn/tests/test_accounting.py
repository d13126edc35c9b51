"""Parameters are counted as built, FLOPs as torch's own counter sees them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scratch.nn import (
    FlopsPerToken,
    ParameterCount,
    TransformerConfig,
    TransformerLM,
    Visibility,
    count_parameters,
    flops_per_token,
    mfu,
    peak_flops_per_second,
    plain_forms,
)


def config(**changes: Any) -> TransformerConfig:
    sizes = {"vocab_size": 23, "context_length": 16, "d_model": 24, "num_layers": 3}
    return TransformerConfig(**{**sizes, "num_heads": 4, "d_ff": 40, **changes})


VARIANTS = {
    "base": config(),
    "grouped": config(num_kv_heads=1),
    "silu": config(feed_forward="silu"),
    "relu2": config(feed_forward="relu2"),
    "tied": config(tie_embeddings=True),
    "post": config(norm="post"),
    "bare": config(norm="none", position="none"),
    "qk-norm": config(qk_norm="rms", num_kv_heads=2),
    "window": config(sliding_window=5, logit_cap=3.0),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


# --- parameters


@every_variant
def test_a_config_is_counted_like_the_model_that_is_built(variant: TransformerConfig) -> None:
    model = TransformerLM(variant)
    assert count_parameters(variant) == count_parameters(model)
    assert count_parameters(model).total == sum(p.numel() for p in model.parameters())


def test_parameters_are_counted_by_component() -> None:
    assert count_parameters(config(num_kv_heads=2, qk_norm="rms")) == ParameterCount(
        embedding=23 * 24,
        attention=3 * (24 * 24 + 2 * 24 * 12 + 24 * 24),
        feed_forward=3 * 3 * 24 * 40,
        norms=(2 * 3 + 1) * 24 + 3 * 2 * 6,
        head=23 * 24,
    )


def test_a_shared_weight_is_counted_once() -> None:
    untied, tied = count_parameters(config()), count_parameters(config(tie_embeddings=True))
    assert (tied.embedding, tied.head) == (23 * 24, 0)
    assert untied.total - tied.total == 23 * 24


def test_gpt_2_small_has_its_size() -> None:
    gpt2 = TransformerConfig.sized(depth=12, vocab_size=50257, tie_embeddings=True)
    assert count_parameters(gpt2).total == 123_551_232  # without positions and biases


# --- FLOPs


def counted(variant: TransformerConfig, ids: Tensor) -> tuple[int, int]:
    """Return the FLOPs of products that torch counts, forward and backward, for all of `ids`.

    Without the padding of the head, which is no work of the model.
    """
    model = TransformerLM(replace(variant, pad_vocab_to=1))
    with plain_forms():
        with FlopCounterMode(display=False) as forward:
            loss = model(ids).sum()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    return forward.get_total_flops(), backward.get_total_flops()


@every_variant
@pytest.mark.parametrize("seq", [16, 7])
def test_torch_counts_the_same_forward_and_backward(variant: TransformerConfig, seq: int) -> None:
    flops = flops_per_token(variant, seq=seq)
    forward, backward = counted(variant, torch.randint(23, (2, seq)))
    assert (forward, backward) == (2 * seq * flops.forward, 2 * seq * flops.backward)
    assert flops.total == flops.forward + flops.backward
    assert flops.recomputed == 0


@every_variant
def test_torch_counts_what_checkpointing_computes_again(variant: TransformerConfig) -> None:
    variant = replace(variant, checkpointing="block")
    flops = flops_per_token(variant)
    forward, backward = counted(variant, torch.randint(23, (2, 16)))
    assert forward == 2 * 16 * flops.forward
    assert backward == 2 * 16 * (flops.backward + flops.recomputed)


def test_each_component_costs_what_it_costs() -> None:
    flops = flops_per_token(config(num_kv_heads=2), seq=8)
    assert flops == FlopsPerToken(
        projections=3 * 2 * (2 * 24 * 24 + 2 * 24 * 12),
        scores=3 * 4 * 24 * 8,
        visible_scores=3 * 4 * 24 * 4.5,
        feed_forward=3 * 2 * 3 * 24 * 40,
        head=2 * 24 * 23,
        recomputed=0,
    )


@every_variant
def test_the_total_is_six_for_each_weight_and_the_scores(variant: TransformerConfig) -> None:
    count = count_parameters(variant)
    multiplied = count.attention + count.feed_forward + 23 * 24
    assert flops_per_token(variant).total == 6 * multiplied + 12 * 3 * 24 * 16


@pytest.mark.parametrize("window", [None, 1, 5, 16, 40])
@pytest.mark.parametrize("seq", [1, 5, 6, 16])
def test_visible_scores_are_those_of_the_mask(window: int | None, seq: int) -> None:
    flops = flops_per_token(config(sliding_window=window), seq=seq)
    pairs = int(Visibility(window).mask(seq).sum())
    assert flops.visible_scores * seq == pytest.approx(3 * 4 * 24 * pairs, rel=1e-12)
    hidden = flops.scores - flops.visible_scores
    assert flops.visible_total == pytest.approx(flops.total - 3 * hidden, rel=1e-12)


def test_a_full_context_is_the_default() -> None:
    assert flops_per_token(config()) == flops_per_token(config(), seq=16)


def test_published_sizes_cost_what_is_published() -> None:
    # 124M, context 1024: 0.855 GFLOP a token, with 4 d_model^2 for the feed-forward network.
    gpt2 = TransformerConfig.sized(
        depth=12, vocab_size=50304, feed_forward="relu2", tie_embeddings=True
    )
    assert flops_per_token(gpt2).total == pytest.approx(0.855e9, rel=1e-3)


def test_sequences_beyond_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="seq must be at most context_length=16, got 17"):
        flops_per_token(config(), seq=17)
    with pytest.raises(ValueError, match="seq must be at least 1, got 0"):
        flops_per_token(config(), seq=0)


# --- MFU


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
    ],
)
def test_known_cards_have_their_dense_peak(name: str, peak: float) -> None:
    assert peak_flops_per_second(name) == peak


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA A10G",
        "NVIDIA L40",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
        "Tesla V100-SXM2-16GB",
        "a card of tomorrow",
        "cpu",
        torch.device("cpu"),
        torch.device("meta"),
    ],
    ids=str,
)
def test_other_devices_have_no_peak_and_no_mfu(name: str | torch.device) -> None:
    assert peak_flops_per_second(name) is None
    assert mfu(1000.0, 1e9, name) is None


@pytest.mark.parametrize("device", [torch.device("cuda", 1), "cuda:1"], ids=repr)
def test_a_device_is_asked_for_its_name(
    device: torch.device | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {torch.device("cuda", 1): "NVIDIA H200"}
    monkeypatch.setattr(torch.cuda, "get_device_name", names.__getitem__)
    assert peak_flops_per_second(device) == 989e12


def test_mfu_is_the_share_of_the_peak() -> None:
    assert mfu(500_000, 0.855e9, "NVIDIA H200") == pytest.approx(0.4322, abs=1e-4)
    flops = flops_per_token(config())
    assert mfu(1e6, flops, "NVIDIA H200") == pytest.approx(1e6 * flops.total / 989e12)
    visible = mfu(1e6, flops.visible_total, "NVIDIA H200")
    assert visible == pytest.approx(1e6 * flops.visible_total / 989e12)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_what_is_no_speed_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="tokens_per_second must be a finite number"):
        mfu(wrong, 1e9, "NVIDIA H200")
    with pytest.raises(ValueError, match="flops_per_token must be a finite number"):
        mfu(1.0, wrong, "cpu")
