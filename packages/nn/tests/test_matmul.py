"""The fast matrix product: a setting that is put back, and float32 that stays float32."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from scratch.nn import fast_matmul, fast_matmul_is_exact

settings: Any = torch.backends.mkldnn.matmul
only_where_it_is_exact = pytest.mark.skipif(
    not fast_matmul_is_exact(), reason="needs a CPU with AVX-512 and without AMX"
)


@pytest.fixture(autouse=True)
def left_alone() -> Iterator[None]:
    """Every test ends with the setting that it began with."""
    before = settings.fp32_precision
    yield
    after, settings.fp32_precision = settings.fp32_precision, before
    assert after == before


def probes(monkeypatch: pytest.MonkeyPatch, *, onednn: bool, avx512: bool, amx: bool) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)


@pytest.fixture
def good_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    probes(monkeypatch, onednn=True, avx512=True, amx=False)


@pytest.mark.usefixtures("good_cpu")
@pytest.mark.parametrize("before", ["none", "ieee"])
def test_the_setting_is_put_back(before: str) -> None:
    settings.fp32_precision = before
    with fast_matmul():
        assert settings.fp32_precision == "bf16"
        with fast_matmul():
            assert settings.fp32_precision == "bf16"
        assert settings.fp32_precision == "bf16"
    assert settings.fp32_precision == before
    settings.fp32_precision = "none"


@pytest.mark.usefixtures("good_cpu")
def test_the_setting_is_put_back_after_an_exception_too() -> None:
    before = settings.fp32_precision
    with pytest.raises(KeyError), fast_matmul():
        raise KeyError
    assert settings.fp32_precision == before


@pytest.mark.parametrize(
    ("onednn", "avx512", "amx"),
    [(True, True, True), (True, False, False), (False, True, False), (True, False, True)],
)
def test_nothing_changes_where_nothing_is_gained_or_precision_lost(
    monkeypatch: pytest.MonkeyPatch, *, onednn: bool, avx512: bool, amx: bool
) -> None:
    probes(monkeypatch, onednn=onednn, avx512=avx512, amx=amx)
    assert not fast_matmul_is_exact()
    before = settings.fp32_precision
    with fast_matmul():
        assert settings.fp32_precision == before


@pytest.mark.usefixtures("good_cpu")
def test_a_cpu_with_avx512_and_without_amx_gains() -> None:
    assert fast_matmul_is_exact()


# The partial sums of k products of normal numbers are of size sqrt(k), and each of k additions
# rounds them by 2^-24: together they are off by k 2^-24 / sqrt(2), the worst of thousands by five
# times that. Rounded to bfloat16, the factors alone would be off by 2^-9.
BOUND = 8 * 2**-24


def products() -> list[Tensor]:
    """Return errors of products of normal numbers, per product that is summed."""
    errors: list[Tensor] = []
    for rows, inner, columns in ((64, 512, 96), (33, 100, 7), (256, 64, 256)):
        a, b = torch.randn(rows, inner), torch.randn(inner, columns)
        wide = a.double() @ b.double()
        batched = torch.bmm(a[None], b[None])[0]
        added = torch.addmm(torch.zeros(()), a, b, beta=0)
        results = (a @ b, batched, added, (b.T @ a.T).T)
        errors += [(result - wide).abs().max() / inner for result in results]
    return errors


@only_where_it_is_exact
def test_products_stay_as_precise_as_float32() -> None:
    with fast_matmul():
        fast = products()
    assert max(fast) < BOUND


def test_the_bound_on_the_error_tells_bfloat16_from_float32() -> None:
    a, b = torch.randn(64, 512), torch.randn(512, 96)
    rounded = a.bfloat16().double() @ b.bfloat16().double()
    error = (rounded - a.double() @ b.double()).abs().max() / 512
    assert error > 500 * BOUND


@only_where_it_is_exact
def test_gradients_stay_as_precise_as_float32() -> None:
    a, b = torch.randn(64, 512, requires_grad=True), torch.randn(512, 96, requires_grad=True)
    g = torch.randn(64, 96)
    with fast_matmul():
        d_a, d_b = torch.autograd.grad(a @ b, (a, b), g)
    assert (d_a - g.double() @ b.double().T).abs().max() / 96 < BOUND
    assert (d_b - a.double().T @ g.double()).abs().max() / 64 < BOUND
