"""Which device is chosen, and what is told of the machine."""

import json

import pytest
import torch

from scratch.trainer.device import choose_device, describe_environment


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_prefers_cuda_then_mps_then_the_cpu(
    cuda: bool, mps: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device("auto") == torch.device(chosen)


def test_a_device_has_the_name_that_torch_gives_it() -> None:
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cpu:x", "cuda:99"])
def test_a_device_that_torch_cannot_use_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"device must be one that torch can use, got '{name}': "):
        choose_device(name)


def test_a_device_that_cannot_compute_is_refused() -> None:
    with pytest.raises(ValueError, match="device must be one that torch can use, got 'meta'"):
        choose_device("meta")


def test_the_environment_can_be_written_as_json() -> None:
    environment = json.loads(json.dumps(describe_environment(torch.device("cpu"))))
    assert torch.__version__.startswith(environment["packages"]["torch"])
    assert set(environment["packages"]) >= {"numpy", "scratch-nn", "scratch-trainer"}
    assert environment["device"] == "cpu"
    assert environment["torch_threads"] == torch.get_num_threads()
    assert all(environment[key] for key in ("python", "platform", "device_name", "cpu_count"))
