"""Samples: the text of the drawn tokens, as it grows, in whole characters."""

import io
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from scratch.bpe import Tokenizer
from scratch.nn import TransformerLM, generate
from scratch.trainer.commands import GenerateSettings
from scratch.trainer.runs.run import RunDirectory
from scratch.trainer.using import continuation
from scratch.trainer.using.continuation import Continuation, Sampling
from scratch.trainer.using.sample import continue_text, print_sample

END_OF_TEXT = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer(unbroken: Path) -> Tokenizer:
    return RunDirectory(unbroken).tokenizer()


@pytest.fixture(scope="module")
def model(unbroken: Path) -> TransformerLM:
    return RunDirectory(unbroken).load_model(torch.device("cpu"))


def pieces(
    model: TransformerLM,
    tokenizer: Tokenizer,
    *,
    prompt: str = "the cat",
    max_new_tokens: int = 40,
    seed: int | None = 1,
) -> list[str]:
    return list(
        continue_text(
            model,
            tokenizer,
            prompt,
            max_new_tokens=max_new_tokens,
            temperature=0.9,
            top_k=200,
            top_p=0.99,
            seed=seed,
        )
    )


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that decides which tokens will be drawn, of one text or of several."""

    def decide(*rows: list[int]) -> None:
        def drawn(*arguments: object, **options: object) -> Iterator[int]:
            return iter(rows[0])

        def drawn_together(*arguments: object, **options: object) -> Iterator[torch.Tensor]:
            steps = itertools.zip_longest(*rows, fillvalue=-1)
            return iter([torch.tensor(step) for step in steps])

        monkeypatch.setattr(continuation, "generate", drawn)
        monkeypatch.setattr(continuation, "generate_batch", drawn_together)

    return decide


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Return a function that decides what standard input holds."""

    def decide(content: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), "utf-8"))

    return decide


def spelt(text: str) -> list[int]:
    """Return the ids of single bytes, which are their values."""
    return list(text.encode())


def answer(capsys: pytest.CaptureFixture[str], **changes: Any) -> dict[str, Any]:
    """Return what `--json` prints."""
    capsys.readouterr()
    print_sample(GenerateSettings(json_output=True, **changes))
    return json.loads(capsys.readouterr().out)


def test_the_text_is_that_of_the_drawn_tokens(model: TransformerLM, tokenizer: Tokenizer) -> None:
    end_of_text = tokenizer.special_tokens[END_OF_TEXT]
    ids = generate(
        model,
        torch.tensor([end_of_text, *tokenizer.encode("the cat")]),
        max_new_tokens=40,
        temperature=0.9,
        top_k=200,
        top_p=0.99,
        stop=end_of_text,
        seed=1,
    )
    assert "".join(pieces(model, tokenizer)) == tokenizer.decode(ids)


def test_one_seed_draws_one_text(model: TransformerLM, tokenizer: Tokenizer) -> None:
    texts = {"".join(pieces(model, tokenizer, seed=seed)) for seed in (1, 1, 2, 3)}
    assert len(texts) == 3


def test_without_seed_each_text_is_another(model: TransformerLM, tokenizer: Tokenizer) -> None:
    texts = {"".join(pieces(model, tokenizer, seed=None)) for _ in range(3)}
    assert len(texts) == 3


def test_no_prompt_begins_a_document(model: TransformerLM, tokenizer: Tokenizer) -> None:
    assert "".join(pieces(model, tokenizer, prompt=""))


def test_characters_come_whole(
    model: TransformerLM, tokenizer: Tokenizer, draw: Callable[..., None]
) -> None:
    draw(list("naïve 🙃".encode()))  # the ids of single bytes are their values
    assert pieces(model, tokenizer) == list("naïve 🙃")


def test_half_a_character_at_the_end_is_shown_as_damaged(
    model: TransformerLM, tokenizer: Tokenizer, draw: Callable[..., None]
) -> None:
    draw(list("a🙃".encode()[:-1]))
    assert pieces(model, tokenizer) == ["a", "\ufffd"]


def test_a_prompt_longer_than_the_context_is_refused_at_once(
    model: TransformerLM, tokenizer: Tokenizer
) -> None:
    with pytest.raises(ValueError, match=r"prompt must be 1 to 16 ids \(the context of the model"):
        pieces(model, tokenizer, prompt="the dog ran " * 9)


def test_a_prompt_that_fills_the_context_goes_on(
    model: TransformerLM, tokenizer: Tokenizer
) -> None:
    prompt = tokenizer.decode(list(b"q" * 15))
    assert len(tokenizer.encode(prompt)) == 15
    assert pieces(model, tokenizer, prompt=prompt)


def test_the_sample_is_printed_after_its_prompt(
    unbroken: Path,
    model: TransformerLM,
    tokenizer: Tokenizer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_sample(
        GenerateSettings(
            run=unbroken,
            prompt="the cat",
            max_new_tokens=40,
            temperature=0.9,
            top_k=200,
            top_p=0.99,
            seed=1,
        )
    )
    assert capsys.readouterr().out == "the cat" + "".join(pieces(model, tokenizer)) + "\n"


def test_no_new_tokens_print_the_prompt(unbroken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_sample(GenerateSettings(run=unbroken, prompt="the cat", max_new_tokens=0))
    assert capsys.readouterr().out == "the cat\n"


def test_greedy_samples_need_no_seed(unbroken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = GenerateSettings(run=unbroken, temperature=0, max_new_tokens=20)
    print_sample(settings)
    first = capsys.readouterr().out
    print_sample(settings)
    assert capsys.readouterr().out == first


def test_a_run_without_weights_is_refused(stopped: Path) -> None:
    for checkpoint in (stopped / "checkpoints").glob("*/checkpoint.pt"):
        checkpoint.unlink()
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor a checkpoint"):
        print_sample(GenerateSettings(run=stopped))


# --- where the prompt comes from


def test_prompts_from_everywhere_are_continued_alike(
    unbroken: Path,
    tmp_path: Path,
    stdin: Callable[[bytes], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    greedy = {"run": unbroken, "temperature": 0, "max_new_tokens": 5}
    print_sample(GenerateSettings(prompt="the naïve cat", **greedy))
    expected = capsys.readouterr().out
    for end in ("", "\n", "\r\n"):
        content = f"the naïve cat{end}".encode()
        (tmp_path / "prompt.txt").write_bytes(content)
        print_sample(GenerateSettings(prompt_file=tmp_path / "prompt.txt", **greedy))
        assert capsys.readouterr().out == expected
        stdin(content)
        print_sample(GenerateSettings(prompt="-", **greedy))
        assert capsys.readouterr().out == expected


def test_only_one_line_end_is_no_part_of_a_prompt(
    unbroken: Path, stdin: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    stdin(b"\nthe cat\n\n")
    found = answer(capsys, run=unbroken, prompt="-", max_new_tokens=0)
    assert found["prompt"] == "\nthe cat\n"


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"prompt": "a", "prompt_file": Path("b")}, "got --prompt and --prompt-file$"),
        ({"prompt": "-", "interactive": True}, "got --prompt and --interactive$"),
        ({"prompt_file": Path("b"), "interactive": True}, "got --prompt-file and --interactive$"),
    ],
)
def test_prompts_from_two_places_are_refused(
    unbroken: Path, sources: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"the prompt must come from one place, {message}"):
        print_sample(GenerateSettings(run=unbroken, **sources))


def test_a_prompt_that_is_not_utf8_is_refused_by_name(
    unbroken: Path, tmp_path: Path, stdin: Callable[[bytes], None]
) -> None:
    path = tmp_path / "prompt.txt"
    path.write_bytes(b"na\xefve")
    with pytest.raises(ValueError, match=r"prompt\.txt must be UTF-8, got byte 0xef .* offset 2"):
        print_sample(GenerateSettings(run=unbroken, prompt_file=path))
    stdin(b"\xff")
    with pytest.raises(ValueError, match=r"standard input must be UTF-8, got byte 0xff"):
        print_sample(GenerateSettings(run=unbroken, prompt="-"))


def test_a_long_prompt_is_refused_with_the_flag_that_crops_it(
    unbroken: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = tokenizer.decode(spelt("q" * 16))
    message = "at most 15 tokens, .*, got 16; --long-prompt crop sees only its end"
    with pytest.raises(ValueError, match=message):
        print_sample(GenerateSettings(run=unbroken, prompt=prompt))
    cropped = {"run": unbroken, "long_prompt": "crop", "temperature": 0, "max_new_tokens": 9}
    longer = answer(capsys, prompt="the dog " + prompt, **cropped)
    assert longer["samples"] == answer(capsys, prompt=prompt, **cropped)["samples"]


# --- where the text ends


def test_a_stop_string_across_tokens_and_characters_ends_the_text(
    unbroken: Path, draw: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    draw(spelt("a 🙃, 漢x 漢字 and more"))
    print_sample(GenerateSettings(run=unbroken, prompt="> ", stop=("more", "漢字"), stream=True))
    assert capsys.readouterr().out == "> a 🙃, 漢x \n"


def test_what_may_become_a_stop_string_is_not_streamed(
    model: TransformerLM, tokenizer: Tokenizer
) -> None:
    sampling = Sampling(max_new_tokens=99, stop=("\n\nEnd",))
    text = Continuation(tokenizer, sampling)
    pieces = list(text.follow(spelt("a\n\nEn\n\n\nEnd")))
    assert pieces == ["a", "\n\nEn", "\n"]
    assert (text.finish_reason, text.tokens) == ("stop", 11)


def test_half_a_stop_string_at_the_end_is_text(model: TransformerLM, tokenizer: Tokenizer) -> None:
    text = Continuation(tokenizer, Sampling(max_new_tokens=99, stop=("End",)))
    assert list(text.follow(spelt("aEn"))) == ["a", "En"]


@pytest.mark.parametrize("samples", [1, 2])
def test_why_each_text_ended_is_told(
    unbroken: Path,
    tokenizer: Tokenizer,
    draw: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    samples: int,
) -> None:
    choices = {"run": unbroken, "prompt": "p", "stop": ("!",), "max_new_tokens": 4}
    draw(*[spelt("abcd")] * samples)
    end = {"text": "abcd", "tokens": 4, "finish_reason": "length"}
    assert answer(capsys, samples=samples, **choices)["samples"] == [end] * samples
    draw(*[spelt("ab")] * samples)
    end = {"text": "ab", "tokens": 2, "finish_reason": "end_of_text"}
    assert answer(capsys, samples=samples, **choices)["samples"] == [end] * samples
    draw(*[spelt("a!bc")] * samples)
    end = {"text": "a", "tokens": 2, "finish_reason": "stop"}
    assert answer(capsys, samples=samples, **choices)["samples"] == [end] * samples


def test_several_texts_end_each_by_itself(
    unbroken: Path, draw: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    draw(spelt("a🙃"), spelt("x"), spelt("sto!p")[:5], spelt("long🙃")[:5])
    found = answer(capsys, run=unbroken, samples=4, stop=("o!",), max_new_tokens=5)
    assert [tuple(sample.values()) for sample in found["samples"]] == [
        ("a🙃", 5, "length"),
        ("x", 1, "end_of_text"),
        ("st", 4, "stop"),
        ("long\ufffd", 5, "length"),
    ]


# --- several texts, seeds, JSON


def test_one_seed_draws_the_same_texts_and_another_others(
    unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choices = {"run": unbroken, "samples": 3, "max_new_tokens": 20}
    first, again, other = (answer(capsys, seed=seed, **choices) for seed in (1, 1, 2))
    assert first == again
    texts = [sample["text"] for result in (first, other) for sample in result["samples"]]
    assert len(set(texts)) == 6


def test_without_a_seed_one_is_chosen_and_told(
    unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for samples in (1, 2):
        choices = {"run": unbroken, "samples": samples, "max_new_tokens": 20}
        chosen, other = answer(capsys, **choices), answer(capsys, **choices)
        assert chosen["seed"] != other["seed"]
        assert answer(capsys, seed=chosen["seed"], **choices) == chosen


def test_more_texts_than_fit_at_once_all_differ(
    unbroken: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(continuation, "_AT_ONCE", 2)
    found = answer(capsys, run=unbroken, samples=5, max_new_tokens=20, seed=0)
    assert len({sample["text"] for sample in found["samples"]}) == 5


def test_greedy_texts_are_that_of_one(unbroken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choices = {"run": unbroken, "prompt": "the dog", "temperature": 0, "max_new_tokens": 20}
    one = answer(capsys, **choices)["samples"]
    assert answer(capsys, samples=3, **choices)["samples"] == one * 3


def test_json_tells_the_settings_that_matter(
    unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(
        capsys, run=unbroken, prompt="the", top_k=5, min_p=0.1, max_new_tokens=1, checkpoint=8
    )
    assert found["settings"] == {
        "max_new_tokens": 1,
        "temperature": 0.8,
        "top_k": 5,
        "top_p": 0.95,
        "min_p": 0.1,
        "stop": [],
        "long_prompt": "refuse",
        "run": str(unbroken),
        "checkpoint": 8,
    }


def test_min_p_of_one_is_greedy(unbroken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choices = {"run": unbroken, "max_new_tokens": 20}
    greedy = answer(capsys, temperature=0, **choices)["samples"]
    assert answer(capsys, min_p=1, seed=3, **choices)["samples"] == greedy


def test_several_texts_are_parted_by_headings(
    unbroken: Path, draw: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    draw(spelt("b"), spelt("c\n"))
    print_sample(GenerateSettings(run=unbroken, prompt="a", samples=2))
    assert capsys.readouterr().out == "--- sample 1 ---\nab\n--- sample 2 ---\nac\n\n"


def test_a_text_that_is_not_streamed_is_the_same(
    unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = GenerateSettings(run=unbroken, prompt="the", seed=4, max_new_tokens=20)
    print_sample(settings)
    streamed = capsys.readouterr().out
    print_sample(settings.model_copy(update={"stream": False}))
    assert capsys.readouterr().out == streamed


def test_a_checkpoint_is_another_model(unbroken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choices = {"run": unbroken, "seed": 1, "max_new_tokens": 20}
    final, latest, early = (
        answer(capsys, checkpoint=checkpoint, **choices)["samples"]
        for checkpoint in ("final", "latest", 4)
    )
    assert final == latest != early


def test_an_empty_stop_string_is_refused(unbroken: Path) -> None:
    with pytest.raises(ValueError, match="--stop must be texts of at least one character"):
        print_sample(GenerateSettings(run=unbroken, stop=("",)))


# --- one prompt after another


def test_lines_are_continued_one_after_another_as_each_would_be_alone(
    unbroken: Path, stdin: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    choices = {"run": unbroken, "seed": 1, "max_new_tokens": 9}
    for prompt in ("the cat", "漢字"):
        print_sample(GenerateSettings(prompt=prompt, **choices))
    expected = capsys.readouterr().out
    for end in ("", "\n", "\n\nthe dog\n"):
        stdin(f"the cat\n漢字{end}".encode())
        print_sample(GenerateSettings(interactive=True, **choices))
        assert capsys.readouterr().out == expected


def test_the_model_is_loaded_once_for_all_lines(
    unbroken: Path, stdin: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[object] = []
    load_model = RunDirectory.load_model
    monkeypatch.setattr(
        RunDirectory,
        "load_model",
        lambda *arguments: (loads.append(arguments), load_model(*arguments))[1],
    )
    stdin(b"a\nb\nc\n")
    print_sample(GenerateSettings(run=unbroken, interactive=True, max_new_tokens=1))
    assert len(loads) == 1


def test_a_line_that_is_too_long_does_not_end_the_talk(
    unbroken: Path,
    draw: Callable[..., None],
    stdin: Callable[[bytes], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    draw(spelt("!"))
    stdin(b"q" * 99 + b"\nthe cat\n")
    print_sample(GenerateSettings(run=unbroken, interactive=True))
    shown = capsys.readouterr()
    assert shown.out == "the cat!\n"
    assert "trainer: the prompt must be at most 15 tokens" in shown.err


def test_an_interrupt_stops_the_text_only(
    unbroken: Path,
    stdin: Callable[[bytes], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*arguments: object, **options: object) -> Iterator[int]:
        yield from b"ok"
        raise KeyboardInterrupt

    monkeypatch.setattr(continuation, "generate", interrupted)
    stdin(b"a \nb \n")
    print_sample(GenerateSettings(run=unbroken, interactive=True))
    assert capsys.readouterr().out == "a ok\nb ok\n"


def test_an_interrupt_a_moment_too_late_does_not_end_the_talk(
    unbroken: Path,
    draw: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    typed: list[str | type[BaseException]] = ["a", KeyboardInterrupt, "b", EOFError]

    def type_next(prompt: str) -> str:
        line = typed.pop(0)
        if isinstance(line, str):
            return line
        raise line

    draw(spelt("!"))
    monkeypatch.setattr("builtins.input", type_next)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    print_sample(GenerateSettings(run=unbroken, interactive=True))
    assert capsys.readouterr().out == "a!\n\nb!\n\n"
    assert not typed


def test_talking_to_a_program_is_refused(unbroken: Path) -> None:
    with pytest.raises(ValueError, match="--json answers one prompt, got --interactive"):
        print_sample(GenerateSettings(run=unbroken, interactive=True, json_output=True))
