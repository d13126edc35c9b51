"""The tokenizer that `-t` names, whichever library it comes from."""

import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

from ._cli_arguments import pattern
from ._gpt2 import read_gpt2_files
from ._huggingface import read_huggingface
from ._tiktoken import read_tiktoken
from ._tokenizer import Tokenizer
from ._vocabulary import Vocabulary

Format = Literal["scratch", "hf", "tiktoken", "gpt2"]

_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")


def add_tokenizer(parser: ArgumentParser) -> None:
    parser.add_argument(
        "-t",
        "--tokenizer",
        metavar="PATH",
        required=True,
        help="a file of bpe train, a tokenizer.json of Hugging Face, a .tiktoken file, "
        "or a folder with the vocab.json and merges.txt of GPT-2",
    )
    parser.add_argument("--pattern", type=pattern, help="what words are, for a .tiktoken file")
    parser.add_argument(
        "--special-token",
        metavar="NAME=ID",
        dest="special_tokens",
        action="append",
        default=[],
        help="a special token of a .tiktoken file; of a folder of GPT-2 just NAME, by default "
        "each token that no merge makes; may be given again",
    )


def load_tokenizer(settings: Namespace) -> Tokenizer:
    """Return the tokenizer that the arguments of `add_tokenizer` describe."""
    return Tokenizer.from_vocabulary(load_vocabulary(settings))


def load_vocabulary(settings: Namespace) -> Vocabulary:
    """Return the vocabulary that the arguments of `add_tokenizer` describe.

    Raises:
        ValueError: if it is in no format that we know, or is told too little or too much of.
        OSError: if it cannot be read.
    """
    path = Path(settings.tokenizer)
    specials: list[str] = settings.special_tokens
    form = recognise(path)
    if settings.pattern is not None and form != "tiktoken":
        raise ValueError(f"--pattern is for .tiktoken files, and {path} knows its own")
    if specials and form not in ("tiktoken", "gpt2"):
        raise ValueError(f"--special-token is for files without any, and {path} knows its own")
    match form:
        case "scratch":
            return Vocabulary.load(path)
        case "hf":
            return read_huggingface(path)
        case "gpt2":
            return _read_gpt2(path, specials)
        case "tiktoken":
            if settings.pattern is None:
                raise ValueError(
                    f"{path} is a .tiktoken file, which does not hold the pattern of its words; "
                    "add --pattern (cl100k, o200k, ...) and --special-token NAME=ID for each"
                )
            ids = dict(_split_name_and_id(text) for text in specials)
            if len(ids) < len(specials):
                raise ValueError(f"--special-token must give each name once, got {specials}")
            return read_tiktoken(path, pattern=settings.pattern, special_tokens=ids)


def recognise(path: Path) -> Format:
    """Return the format of a tokenizer, told by what is in it, not by its name.

    Raises:
        ValueError: if it is none that we know.
        OSError: if it cannot be read.
    """
    if path.is_dir():
        if (path / "vocab.json").exists() and (path / "merges.txt").exists():
            return "gpt2"
        raise ValueError(f"{path} is a folder without a vocab.json and a merges.txt")
    with path.open("rb") as file:
        if _TIKTOKEN_LINE.fullmatch(file.readline(2**16)):
            return "tiktoken"
        file.seek(0)
        content = _json_keys(file.read())
    if "format" in content:
        return "scratch"
    if "model" in content:
        return "hf"
    hint = f"; a vocab.json goes by its folder, {path.parent}" if "!" in content else ""
    raise ValueError(
        f"{path} must be a tokenizer: a file of bpe train, a tokenizer.json, a .tiktoken file or a "
        f"folder with vocab.json and merges.txt{hint}"
    )


def _json_keys(data: bytes) -> set[str]:
    """Return the keys of a JSON object, or none if it is not one."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return set()
    return set(cast("dict[str, object]", content)) if isinstance(content, dict) else set()


def _read_gpt2(folder: Path, specials: Sequence[str]) -> Vocabulary:
    """Read the two files. They do not tell which tokens are special: those that nothing makes."""
    tokens, merges = read_gpt2_files(folder / "vocab.json", folder / "merges.txt", tuple(specials))
    vocabulary = Vocabulary(tokens, tuple(merges), tuple(specials))
    if specials:
        return vocabulary
    made = {left + right for left, right in merges}
    found = (token for token in tokens.values() if len(token) > 1 and token not in made)
    texts = tuple(token.decode() for token in found if _is_text(token))
    return replace(vocabulary, special_tokens=texts)


def _is_text(token: bytes) -> bool:
    return token.decode(errors="replace").encode() == token


def _split_name_and_id(text: str) -> tuple[str, int]:
    name, _, token_id = text.rpartition("=")
    if not name or not token_id.isascii() or not token_id.isdigit():
        raise ValueError(f"--special-token must be NAME=ID for a .tiktoken file, got {text!r}")
    return name, int(token_id)
