"""Samples: the text of the drawn tokens, as it grows, in whole characters."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from scratch.bpe import Tokenizer
from scratch.nn import TransformerLM, generate
from scratch.trainer import sample as module
from scratch.trainer.commands import GenerateSettings
from scratch.trainer.run import RunDirectory
from scratch.trainer.sample import continue_text, print_sample

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
def draw(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int]], None]:
    """Return a function that decides which tokens will be drawn."""

    def decide(ids: list[int]) -> None:
        def drawn(*arguments: object, **options: object) -> Iterator[int]:
            return iter(ids)

        monkeypatch.setattr(module, "generate", drawn)

    return decide


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
    model: TransformerLM, tokenizer: Tokenizer, draw: Callable[[list[int]], None]
) -> None:
    draw(list("naïve 🙃".encode()))  # the ids of single bytes are their values
    assert pieces(model, tokenizer) == list("naïve 🙃")


def test_half_a_character_at_the_end_is_shown_as_damaged(
    model: TransformerLM, tokenizer: Tokenizer, draw: Callable[[list[int]], None]
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
