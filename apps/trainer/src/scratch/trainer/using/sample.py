"""`trainer generate`: the model continues a text, which is shown as it grows."""

import json
import secrets
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module

from scratch.bpe import Tokenizer
from scratch.nn import TransformerLM

from ..commands import GenerateSettings
from ..device import choose_device
from ..runs.run import RunDirectory
from ..watching.display import say
from .continuation import Continuation, Sample, Sampling, continue_many, draw_tokens, prompt_ids

_STDIN = "-"


def continue_text(
    model: TransformerLM,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float,
    seed: int | None,
    min_p: float = 0.0,
) -> Iterator[str]:
    """Yield the text that continues `prompt`, in whole characters, until the document ends.

    Raises:
        ValueError: if the prompt is longer than the context of the model.
    """
    sampling = Sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
    )
    ids = draw_tokens(model, tokenizer, prompt, sampling, seed=seed)
    return Continuation(tokenizer, sampling).follow(ids)


def print_sample(settings: GenerateSettings) -> None:
    """Continue a prompt, or one after another, and print what comes.

    Raises:
        ValueError: if there is more than one prompt, it is not UTF-8, or longer than the context.
        OSError: if the file of the prompt cannot be read.
    """
    _check(settings)
    prompt = None if settings.interactive else read_prompt(settings)
    run = RunDirectory(settings.run)
    model = run.load_model(choose_device(settings.device), settings.checkpoint)
    writer = _Writer(settings, model, run.tokenizer())
    if prompt is None:
        _converse(writer)
    elif settings.json_output:
        writer.print_json(prompt)
    else:
        writer.print_text(prompt)


def read_prompt(settings: GenerateSettings) -> str:
    """Return the prompt. The line end that closes a file or standard input is not part of it."""
    if settings.prompt_file is not None:
        name, content = str(settings.prompt_file), settings.prompt_file.read_bytes()
    elif settings.prompt == _STDIN:
        name, content = "standard input", sys.stdin.buffer.read()
    else:
        return settings.prompt
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} must be UTF-8, got byte 0x{content[error.start]:02x} "
            f"at byte offset {error.start}: {error.reason}"
        ) from None
    return text.removesuffix("\n").removesuffix("\r")


def _check(settings: GenerateSettings) -> None:
    sources = {
        "--prompt": bool(settings.prompt),
        "--prompt-file": settings.prompt_file is not None,
        "--interactive": settings.interactive,
    }
    given = [flag for flag, is_given in sources.items() if is_given]
    if len(given) > 1:
        raise ValueError(f"the prompt must come from one place, got {' and '.join(given)}")
    if settings.interactive and settings.json_output:
        raise ValueError("--json answers one prompt, got --interactive; leave one of them out")
    if "" in settings.stop:
        raise ValueError("--stop must be texts of at least one character, got an empty one")


class _Writer:
    """Writes texts to standard output, as the settings say."""

    def __init__(
        self, settings: GenerateSettings, model: TransformerLM, tokenizer: Tokenizer
    ) -> None:
        self._settings, self._model, self._tokenizer = settings, model, tokenizer
        self._sampling = Sampling(
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            min_p=settings.min_p,
            stop=settings.stop,
            long_prompt="crop" if settings.long_prompt == "crop" else "error",
        )

    def print_text(self, prompt: str) -> None:
        """Print the prompt and what continues it; of several, each under a heading."""
        self._check_length(prompt)
        if self._settings.samples > 1:
            for number, sample in enumerate(self._draw(prompt, self._seed()), start=1):
                _print_heading(f"sample {number}")
                print(prompt + sample.text, flush=True)
            return
        pieces = self._follow(prompt, self._seed(), Continuation(self._tokenizer, self._sampling))
        if not self._settings.stream:
            pieces = iter(["".join(pieces)])
        print(prompt, end="", flush=self._settings.stream)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()

    def print_json(self, prompt: str) -> None:
        """Print one JSON object, with the seed that draws the same again."""
        self._check_length(prompt)
        seed = self._seed()
        if self._settings.samples > 1:
            samples = list(self._draw(prompt, seed))
        else:
            continuation = Continuation(self._tokenizer, self._sampling)
            text = "".join(self._follow(prompt, seed, continuation))
            samples = [Sample.of(text, continuation)]
        result = {
            "prompt": prompt,
            "samples": [asdict(sample) for sample in samples],
            "seed": seed,
            "settings": {
                **asdict(self._sampling),
                "long_prompt": self._settings.long_prompt,
                "run": str(self._settings.run),
                "checkpoint": self._settings.checkpoint,
            },
        }
        print(json.dumps(result))

    def _seed(self) -> int:
        """Return the seed that was given, or a new one."""
        return secrets.randbits(32) if self._settings.seed is None else self._settings.seed

    def _follow(self, prompt: str, seed: int, continuation: Continuation) -> Iterator[str]:
        ids = draw_tokens(self._model, self._tokenizer, prompt, self._sampling, seed=seed)
        return continuation.follow(ids)

    def _draw(self, prompt: str, seed: int) -> Iterator[Sample]:
        samples = self._settings.samples
        return continue_many(
            self._model, self._tokenizer, prompt, self._sampling, samples=samples, seed=seed
        )

    def _check_length(self, prompt: str) -> None:
        """Refuse what does not fit into the context, if it is not to be cropped."""
        context = self._model.config.context_length
        tokens = len(prompt_ids(self._tokenizer, prompt)) - 1
        if self._settings.long_prompt == "refuse" and tokens >= context:
            raise ValueError(
                f"the prompt must be at most {context - 1} tokens, which with the start of the "
                f"document fill the context, got {tokens}; --long-prompt crop sees only its end"
            )


def _converse(writer: _Writer) -> None:
    """Continue each line that comes; an empty one ends. Ctrl-C stops the text, not the talk."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        with suppress(ImportError):
            import_module("readline")  # lines can be edited and called back
        say("each line is continued; an empty one or Ctrl-D ends, Ctrl-C stops a text")
    while True:
        try:
            prompt = input("> " if is_terminal else "")
        except EOFError:
            print(end="\n" if is_terminal else "")
            return
        except KeyboardInterrupt:  # which came a moment after the text had ended
            if not is_terminal:
                raise
            print()
            continue
        if not prompt:
            return
        try:
            writer.print_text(prompt)
        except KeyboardInterrupt:
            print(flush=True)
        except ValueError as error:
            say(f"trainer: {error}")


def _print_heading(heading: str) -> None:
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.rule import Rule

        Console().print(Rule(heading, align="left"))
    else:
        print(f"--- {heading} ---")
