"""Byte-level byte-pair encoding (Sennrich et al., 2016, arXiv:1508.07909; Radford et al., 2019)."""

from ._decode import StreamDecoder
from ._manifest import Shard, ShardManifest
from ._patterns import CL100K, GPT2, O200K, PATTERNS
from ._read import read_blocks
from ._stream import read_text
from ._tokenizer import Tokenizer
from ._train import train_bpe, train_bpe_from_iterator
from ._vocabulary import Vocabulary

__version__ = "0.2.1"

__all__ = [
    "CL100K",
    "GPT2",
    "O200K",
    "PATTERNS",
    "Shard",
    "ShardManifest",
    "StreamDecoder",
    "Tokenizer",
    "Vocabulary",
    "read_blocks",
    "read_text",
    "train_bpe",
    "train_bpe_from_iterator",
]
