"""Does `transformers` compute the same from an export? It loads the files, as a stranger would."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import torch

from scratch.bpe import Tokenizer
from scratch.nn import TransformerLM
from scratch.train import Tokens

from ..data.corpus import END_OF_TEXT

# Angles are made in float32 there and in float64 here, and sums run in another order. A mistake,
# say a row in another place or another epsilon, shows in the first digits.
_RELATIVE_TOLERANCE = 1e-3
_LEAST_SIZE = 1e-2  # of logits: a model that knows nothing has small ones

_TEXT = (
    "It's 12345 o'clock,  they'LL say;\n\n\tGrüße Привет 今日は e\u0301 🙃👩‍🚀 "
    f"camelCase !?... \r\n {END_OF_TEXT}and on. "
)


@dataclass(frozen=True)
class Verification:
    """What was compared, and how near it came.

    Attributes:
        version: of transformers.
        tokens: how many, and of what kind, the model was asked about.
        difference: the greatest between two logits.
        allowed: the greatest that would have passed.
    """

    version: str
    tokens: str
    difference: float
    allowed: float

    def __str__(self) -> str:
        return (
            f"verified with transformers {self.version}: the logits of {self.tokens} differ by "
            f"{self.difference:.1e} at most (allowed are {self.allowed:.1e}), texts have the same "
            "tokens"
        )


def verify(
    folder: Path, model: TransformerLM, tokenizer: Tokenizer, held_out: Tokens | None
) -> Verification | None:
    """Load an export with `transformers`, and compare logits and tokens.

    Args:
        folder: the export.
        model, tokenizer: what it was made of, on the CPU.
        held_out: tokens to compare the logits of, as many as the context holds; by default
            random ones.

    Returns:
        What was compared, or None if `transformers` is not installed.

    Raises:
        ValueError: if it does not load, or differs. The export stays as it is.
    """
    if find_spec("transformers") is None:
        return None
    context, vocab_size = model.config.context_length, model.config.vocab_size
    if held_out is None:
        ids, kind = Random(0).choices(range(vocab_size), k=context), "random"
    else:
        ids, kind = [int(token_id) for token_id in held_out], "held-out"
    transformers: Any = import_module("transformers")
    version = f"transformers {transformers.__version__}"
    with _quiet(transformers), torch.no_grad():
        try:
            their_tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True
            )
            theirs, problems = transformers.AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
        except Exception as error:  # whatever a library of that size may raise
            raise ValueError(f"{folder} must load with {version}, got {error}") from error
        for keys in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if problems[keys]:
                raise ValueError(f"{folder} must load with {version}, got {keys} {problems[keys]}")
        logits = model(torch.tensor(ids))
        found = theirs.eval()(torch.tensor([ids])).logits[0]
        difference = float((found - logits).abs().max())
        for text in (_TEXT, tokenizer.decode(ids)):
            _compare_tokens(folder, version, text, tokenizer, their_tokenizer)
    allowed = _RELATIVE_TOLERANCE * max(_LEAST_SIZE, float(logits.abs().max()))
    if not difference <= allowed:
        raise ValueError(
            f"{folder} must give the same logits with {version}, "
            f"got a difference of {difference:.1e}, where {allowed:.1e} is allowed"
        )
    return Verification(transformers.__version__, f"{context} {kind} tokens", difference, allowed)


def _compare_tokens(
    folder: Path, version: str, text: str, tokenizer: Tokenizer, theirs: Any
) -> None:
    expected, found = tokenizer.encode(text), theirs(text)["input_ids"]
    if found != expected:
        place = next(
            (i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b),
            min(len(expected), len(found)),
        )
        raise ValueError(
            f"{folder} must give the same tokens with {version}, got {found[place : place + 3]} "
            f"in place of {expected[place : place + 3]} at token {place} of {text!r}"
        )
    if (again := theirs.decode(found)) != text:
        raise ValueError(f"{folder} must decode {text!r} with {version}, got {again!r}")


@contextmanager
def _quiet(transformers: Any) -> Generator[None]:
    """Keep it from bars of its own, and from remarks that are not errors."""
    logging = transformers.utils.logging
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
