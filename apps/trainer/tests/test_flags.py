"""Flags: what they may be is told in the words of this house, with the flag and what came."""

import pytest

from scratch.trainer.cli import parse
from scratch.trainer.commands import PrepareSettings
from scratch.trainer.config import TrainSettings

TRAIN: str = "train --data d --out r"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"{TRAIN} --steps 0", "--steps: must be at least 1, got 0"),
        (f"{TRAIN} --steps 1.5", "--steps: must be a whole number, got 1.5"),
        (f"{TRAIN} --batch-size 0", "--batch-size: must be at least 1, got 0"),
        (f"{TRAIN} --seed=-1", "--seed: must be at least 0, got -1"),
        (f"{TRAIN} --train-seconds x", "--train-seconds: must be a number, got x"),
        (f"{TRAIN} --model.d-ff 0", "--model.d-ff: must be at least 1, got 0"),
        (f"{TRAIN} --optimizer.muon-lr 0", "--optimizer.muon-lr: must be greater than 0, got 0"),
        (f"{TRAIN} --optimizer.lr nan", "--optimizer.lr: must be a finite number, got nan"),
        (f"{TRAIN} --optimizer.beta1 1", "--optimizer.beta1: must be less than 1, got 1"),
        (f"{TRAIN} --micro-batch 0", "--micro-batch-size: must be at least 1 or 'auto', got 0"),
        (f"{TRAIN} --micro-batch x", "must be a whole number or 'auto', got x"),
        ("evaluate r --checkpoint x", "must be 'final' or 'latest' or 'best' or a whole number"),
        ("generate r --min-p 2", "--min-p: must be at most 1, got 2"),
        ("prepare t --out d --vocab-size 256", "--vocab-size: must be at least 257, got 256"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_its_flag_and_the_rule(
    line: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as exit_:
        parse(line.split())
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert told in message
    for jargon in ("pydantic", "typing", "class", "validation"):
        assert jargon not in message


def test_values_of_several_kinds_are_read_as_what_they_can_be() -> None:
    asked: str = (
        f"{TRAIN} --micro-batch 3 --model.d-ff None --train-seconds 1e1 --preset owt --steps None"
    )
    settings = parse(asked.split())
    assert isinstance(settings, TrainSettings)
    assert (settings.micro_batch_size, settings.model.d_ff) == (3, None)
    assert (settings.train_seconds, settings.steps) == (10.0, None)
    prepared = parse(["prepare", "t", "--out", "d", "--tokenizer", "None"])
    assert isinstance(prepared, PrepareSettings)
    assert prepared.tokenizer is None


def test_help_says_what_to_write_for_a_value(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        parse(["train", "--help"])
    text = capsys.readouterr().out
    for flag in ("--steps INT", "--config PATH", "--micro-batch INT|{auto}", "--preset STR"):
        assert flag in text
    assert "{None}" not in text
    assert "Updates to make. (default: None)" in text
