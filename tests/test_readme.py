"""The examples of the READMEs run, and the commands they name exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", *sorted(ROOT.glob("*/*/README.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[object]:
    """Return the fenced blocks of one language in all READMEs, named after where they stand."""
    return [
        pytest.param(match[2], id=f"{path.parent.name}-{number}")
        for path in READMES
        for number, match in enumerate(FENCE.finditer(path.read_text()))
        if match[1] == language
    ]


def trainer_commands() -> list[list[str]]:
    return [
        shlex.split(line)[shlex.split(line).index("trainer") :]
        for block in blocks("sh")
        for line in block.values[0].splitlines()
        if re.search(r"(?:^|\s)trainer (?!-)", line) and not line.lstrip().startswith("#")
    ]


@pytest.mark.parametrize("code", blocks("python"))
def test_the_examples_run(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_library_has_an_example() -> None:
    assert {param.id.rsplit("-", 1)[0] for param in blocks("python")} >= {
        ROOT.name,
        "bpe",
        "nn",
        "optim",
        "train",
    }


@pytest.mark.parametrize("command", trainer_commands(), ids=" ".join)
def test_the_commands_are_understood(command: list[str]) -> None:
    from scratch.trainer.cli import parse

    assert parse(command[1:]) is not None


def test_the_two_commands_come_first() -> None:
    commands = [block.values[0].strip() for block in blocks("sh")]
    assert commands[:2] == ["pip install uv && uv run trainer quickstart", "uv run pytest"]
