"""Every contract test starts from the same seed; tokenizers share one trained vocabulary."""

import pytest
import torch

from .adapters import run_train_bpe
from .texts import EOT, Trained, sample_text


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(2017)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return what a sample text teaches. Ids of single bytes are shuffled, the special is last."""
    corpus = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    corpus.write_bytes(sample_text(seed=1, fragments=20_000).encode())
    _, merges = run_train_bpe(corpus, 700, [EOT])
    assert len(merges) > 300
    tokens = [bytes([(7 * byte + 3) % 256]) for byte in range(256)]
    tokens += [left + right for left, right in merges]
    return Trained(dict(enumerate([*tokens, EOT.encode()])), merges)
