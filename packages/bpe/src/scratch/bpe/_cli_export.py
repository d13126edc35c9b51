"""`bpe export`: the same tokenizer for another library, and how to load it there."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from os import fspath
from pathlib import Path

from ._cli_arguments import Command, check_can_be_folder, check_can_write, write_result
from ._cli_load import Format, add_tokenizer, load_vocabulary
from ._gpt2 import write_gpt2_files
from ._huggingface import write_huggingface
from ._tiktoken import write_tiktoken
from ._vocabulary import Vocabulary

_EXAMPLES = """\
bpe export -t tok.json --to hf -o tokenizer.json
bpe export -t tok.json --to gpt2 -o gpt2/
bpe export -t gpt2/ --to scratch -o again.json"""


def _add_arguments(parser: ArgumentParser) -> None:
    add_tokenizer(parser)
    parser.add_argument(
        "--to",
        choices=tuple(_WRITERS),
        required=True,
        help="hf: a tokenizer.json for tokenizers and transformers; tiktoken: a .tiktoken file; "
        "gpt2: a folder with vocab.json and merges.txt; scratch: a file as of bpe train",
    )
    parser.add_argument("-o", "--out", metavar="PATH", required=True, help="where to write it")


def _run(settings: Namespace) -> None:
    vocabulary, out = load_vocabulary(settings), Path(settings.out)
    if settings.to == "gpt2":
        check_can_be_folder(out)
    else:
        check_can_write(out)
    write_result(_WRITERS[settings.to](vocabulary, out))


# Each writes one format, and returns Python that loads it where it is meant for.


def _write_huggingface(vocabulary: Vocabulary, out: Path) -> str:
    write_huggingface(vocabulary, out)
    return f"""\
# {out} is written. To load it:
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file({fspath(out)!r})"""


def _write_tiktoken(vocabulary: Vocabulary, out: Path) -> str:
    write_tiktoken(vocabulary, out)
    ids = {token: token_id for token_id, token in vocabulary.tokens.items()}
    specials = {token: ids[token.encode()] for token in vocabulary.special_tokens}
    # Not with tiktoken.load: it would keep a copy of the file, and go on to read the copy.
    return f"""\
# {out} is written. To load it:
import base64, pathlib, tiktoken
lines = [line.split() for line in pathlib.Path({fspath(out)!r}).read_bytes().splitlines()]
encoding = tiktoken.Encoding(
    name={out.stem!r},
    pat_str={vocabulary.pattern!r},
    mergeable_ranks={{base64.b64decode(token): int(rank) for token, rank in lines}},
    special_tokens={specials!r},
)"""


def _write_gpt2(vocabulary: Vocabulary, out: Path) -> str:
    out.mkdir(parents=True, exist_ok=True)
    vocab_path, merges_path = out / "vocab.json", out / "merges.txt"
    write_gpt2_files(vocabulary, vocab_path, merges_path)
    return f"""\
# {vocab_path} and {merges_path} are written. To load them:
from tokenizers import ByteLevelBPETokenizer
tokenizer = ByteLevelBPETokenizer({fspath(vocab_path)!r}, {fspath(merges_path)!r})
tokenizer.add_special_tokens({list(vocabulary.special_tokens)!r})"""


def _write_scratch(vocabulary: Vocabulary, out: Path) -> str:
    vocabulary.save(out)
    return f"""\
# {out} is written. To load it:
from scratch.bpe import Tokenizer
tokenizer = Tokenizer.load({fspath(out)!r})"""


_WRITERS: dict[Format, Callable[[Vocabulary, Path], str]] = {
    "hf": _write_huggingface,
    "tiktoken": _write_tiktoken,
    "gpt2": _write_gpt2,
    "scratch": _write_scratch,
}

EXPORT = Command(
    "export", "Write a tokenizer for another library.", _EXAMPLES, _add_arguments, _run
)
