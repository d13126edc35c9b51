import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from scratch.nn import TransformerConfig
from scratch.trainer.config import ModelSettings, OptimizerSettings, TrainSettings
from scratch.trainer.runs.run import build_model, with_d_ff
from scratch.trainer.training import memory_at_hand, micro_batch
from scratch.trainer.training.memory_at_hand import free_bytes
from scratch.trainer.training.micro_batch import (
    advise_out_of_memory,
    candidates,
    estimate,
    is_out_of_memory,
    largest_micro_batch,
    largest_that_fits,
    needed_bytes,
    optimizer_state_bytes,
    succeeds,
    take_passes,
)
from scratch.trainer.training.optimization import build_optimizer

TINY = ModelSettings(context_length=16, d_model=16, num_layers=2, num_heads=2, qk_norm="rms")
CPU = torch.device("cpu")


def settings(**changes: Any) -> TrainSettings:
    values = {"data": "data", "out": "out", "steps": 3, "batch_size": 24, "model": TINY, **changes}
    return TrainSettings.model_validate(values)


def config_of(settings: TrainSettings) -> TransformerConfig:
    return TransformerConfig(vocab_size=300, **with_d_ff(settings.model).model_dump())


# --- which sizes


def test_candidates_are_divisors_and_powers_of_two_each_with_parts_of_its_own() -> None:
    assert candidates(96) == [96, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1]  # not 64: 48 does as well
    assert candidates(7) == [7, 4, 2, 1]
    assert candidates(1) == [1]


@pytest.mark.parametrize("batch_size", [1, 2, 7, 24, 96, 128])
def test_the_largest_that_fits_is_found_wherever_the_limit_is(batch_size: int) -> None:
    for limit in range(batch_size + 2):
        asked: list[int] = []

        def fits(size: int, limit: int = limit, asked: list[int] = asked) -> bool:
            asked.append(size)
            return size <= limit

        expected = max((size for size in candidates(batch_size) if size <= limit), default=None)
        assert largest_that_fits(batch_size, fits) == expected
        assert len(asked) == len(set(asked)) <= 5


# --- on a CPU: by the estimate


def with_free_bytes(patch: pytest.MonkeyPatch, number: int) -> None:
    patch.setattr(micro_batch, "free_bytes", lambda _: number)


def test_on_a_cpu_the_estimate_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    told = settings()
    model = build_model(told.model, vocab_size=300)
    weights = 4 * sum(p.numel() for p in model.parameters())
    enough_for_8 = (needed_bytes(model.config, told, 8, CPU) - weights) / 0.8
    with_free_bytes(monkeypatch, int(enough_for_8) + 9)
    assert largest_micro_batch(model, told, CPU) == 8
    with_free_bytes(monkeypatch, int(enough_for_8) - 9)
    assert largest_micro_batch(model, told, CPU) == 6
    with_free_bytes(monkeypatch, 2**40)
    assert largest_micro_batch(model, told, CPU) == 24


def test_where_not_one_sequence_fits_it_is_told_what_to_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_free_bytes(monkeypatch, 1000)
    model = build_model(TINY, vocab_size=300)
    with pytest.raises(ValueError, match=r"not even one .* --model.checkpointing block \(it was"):
        largest_micro_batch(model, settings(), CPU)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_room_is_left_for_just_what_the_optimizer_will_keep(kind: str) -> None:
    chosen = OptimizerSettings.model_validate({"kind": kind})
    model = build_model(TINY, vocab_size=300)
    optimizer = build_optimizer(chosen, model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state: dict[str, Any] = optimizer.state_dict()
    tensors = [t for t in flat(state) if t.numel() > 1]
    assert sum(4 * t.numel() for t in tensors) == optimizer_state_bytes(model.config, chosen)


def flat(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for item in value for t in flat(item)] if isinstance(value, list | tuple) else []


def test_the_estimate_knows_optimizer_and_precision() -> None:
    adamw, muon = settings(), settings(optimizer=OptimizerSettings(kind="muon"))
    narrow = settings(precision="bfloat16")
    config = config_of(adamw)
    assert estimate(config, adamw, 4, CPU).optimizer_bytes == 2 * (
        estimate(config, adamw, 4, CPU).parameters_bytes
    )
    assert needed_bytes(config, muon, 4, CPU) < needed_bytes(config, adamw, 4, CPU)
    assert estimate(config, narrow, 4, CPU) != estimate(config, adamw, 4, CPU)


def test_memory_is_what_a_container_leaves(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("900000\n")
    (tmp_path / "memory.current").write_text("500000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 100000\n")
    assert free_bytes(CPU, cgroup=tmp_path) == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU, cgroup=tmp_path) != 500_000
    assert free_bytes(CPU, cgroup=tmp_path / "none") <= psutil.virtual_memory().total
    assert 0 < memory_at_hand.USABLE_FRACTION < 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits address space as Linux")
def test_memory_is_what_a_limit_of_the_address_space_leaves() -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_AS)
    room = psutil.Process().memory_info().vms + 10**8
    resource.setrlimit(resource.RLIMIT_AS, (room, limits[1]))
    try:
        assert 0 < free_bytes(CPU) <= 10**8
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


# --- by trial: what a CUDA device does, with errors of our own


def test_a_size_is_tried_as_in_training_and_leaves_weights_and_random_numbers_alone() -> None:
    model = build_model(TINY, vocab_size=300)
    before = [p.detach().clone() for p in model.parameters()]
    generator = torch.get_rng_state()
    seen: list[tuple[int, ...]] = []
    model.token_embeddings.register_forward_hook(lambda _, given, __: seen.append(given[0].shape))
    take_passes(model, settings(precision="bfloat16"), 3, CPU)
    assert seen == [(3, 16), (3, 16)]
    assert all(p.grad is not None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(p, was) for p, was in zip(model.parameters(), before, strict=True))


def test_only_a_lack_of_memory_is_a_size_that_does_not_fit() -> None:
    def out_of_memory() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def broken() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    assert succeeds(lambda: None)
    assert not succeeds(out_of_memory)
    with pytest.raises(RuntimeError, match="mat1"):
        succeeds(broken)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_sizes_are_tried() -> None:
    gpu = torch.device("cuda")
    told = settings(batch_size=2**20, model=TINY.model_copy(update={"context_length": 256}))
    model = build_model(told.model, vocab_size=30000).to(gpu)
    size = largest_micro_batch(model, told, gpu)
    assert 1 < size < 2**20
    assert all(p.grad is None for p in model.parameters())
    take_passes(model, told, size, gpu)


# --- advice


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB)"),
    ],
    ids=str,
)
def test_a_lack_of_memory_is_recognized(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert advise_out_of_memory(error, settings(), 24) is not None


@pytest.mark.parametrize("error", [ValueError("out of memory"), RuntimeError("shapes"), OSError()])
def test_other_errors_get_no_advice(error: Exception) -> None:
    assert advise_out_of_memory(error, settings(), 24) is None


def test_the_advice_names_the_knob_and_the_next_value() -> None:
    assert advise_out_of_memory(MemoryError(), settings(), 32) == (
        "the memory is used up at a micro-batch of 32; try --micro-batch-size 16 (it was 32), "
        "or --micro-batch auto, which finds the largest that fits"
    )
    assert advise_out_of_memory(MemoryError(), settings(micro_batch_size="auto"), 3) == (
        "the memory is used up at a micro-batch of 3; try --micro-batch-size 1 (it was 3)"
    )


def test_at_one_sequence_the_advice_is_about_the_model() -> None:
    def advice(**changes: Any) -> str:
        model = TINY.model_copy(update=changes)
        return advise_out_of_memory(MemoryError(), settings(model=model), 1) or ""

    assert "--model.checkpointing block (it was none)" in advice()
    assert "--model.context-length 8 (it was 16)" in advice(checkpointing="block")
    assert "--model.num-layers 1 (it was 2)" in advice(checkpointing="block", context_length=1)


_STARVED = """
import resource, torch
from pathlib import Path
from scratch.trainer.config import ModelSettings, TrainSettings
from scratch.trainer.training.micro_batch import advise_out_of_memory, take_passes
from scratch.trainer.runs.run import build_model

torch.set_num_threads(1)
model = ModelSettings(context_length=256, d_model=64, num_layers=1, num_heads=2)
settings = TrainSettings(data=Path("d"), out=Path("o"), steps=1, batch_size=1024, model=model)
built = build_model(model, vocab_size=300)
take_passes(built, settings, 1, torch.device("cpu"))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
try:
    take_passes(built, settings, 1024, torch.device("cpu"))
except (MemoryError, RuntimeError) as error:
    print(advise_out_of_memory(error, settings, 1024))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits address space as Linux")
def test_a_process_that_gets_no_more_memory_is_told_the_next_value() -> None:
    child = subprocess.run(
        [sys.executable, "-c", _STARVED], capture_output=True, text=True, timeout=300, check=True
    )
    assert "--micro-batch-size 512 (it was 1024)" in child.stdout
