"""Every test starts from the same seed, and may call the library without the shape checker."""

import jaxtyping
import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(1847)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every argument through to the library, as outside of tests, to see its own answer."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
