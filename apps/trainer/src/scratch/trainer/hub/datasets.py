"""Public data sets: what their files are called, where they lie, and how to know them.

Sizes and checksums are those that the hub itself keeps of the files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..commands import DatasetName

HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository of data on the hub."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Text to train on, text to hold out, and how large a vocabulary suits them."""

    repository: str
    train: RemoteFile
    validation: RemoteFile
    vocab_size: int

    def address(self, file: RemoteFile, *, hub: str = HUB) -> str:
        return f"{hub}/datasets/{self.repository}/resolve/main/{file.name}"


DATASETS: Mapping[DatasetName, Dataset] = MappingProxyType(
    {
        # Eldan and Li, 2023, arXiv:2305.07759; the stories of GPT-4 only.
        "tinystories": Dataset(
            repository="roneneldan/TinyStories",
            train=RemoteFile(
                "TinyStoriesV2-GPT4-train.txt",
                num_bytes=2_227_753_162,
                sha256="6418d412de72888f52b5142c761ac21a582f7d1166f0bfbdb5f03ccfdec90443",
            ),
            validation=RemoteFile(
                "TinyStoriesV2-GPT4-valid.txt",
                num_bytes=22_502_601,
                sha256="6874bae9a4c1a4e7edcf0e53b86c17817e9cf881fc75ff2368da457b80c0585d",
            ),
            vocab_size=10_000,
        ),
        # A sample of OpenWebText (Gokaslan and Cohen, 2019), made for Stanford's CS336.
        "owt": Dataset(
            repository="stanford-cs336/owt-sample",
            train=RemoteFile(
                "owt_train.txt.gz",
                num_bytes=4_591_240_837,
                sha256="b19ae88cfbc4016b304c348522455fe38ebac48fffed955adcc7191a89e38ccf",
            ),
            validation=RemoteFile(
                "owt_valid.txt.gz",
                num_bytes=111_785_382,
                sha256="bc73db5da2f19c360836b9c8a88094e13346ec83798c2f40060be39135768c80",
            ),
            vocab_size=32_000,
        ),
    }
)
