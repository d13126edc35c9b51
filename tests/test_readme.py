"""The examples of the READMEs run, and the commands they name exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", *sorted(ROOT.glob("*/*/README.md"))]
DOCS = sorted(ROOT.glob("docs/*.md"))
LIBRARIES = ("bpe", "nn", "optim", "train")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def title(readme: Path) -> str:
    return readme.read_text().splitlines()[0].removeprefix("# ")


def shell_blocks() -> list[str]:
    """Return the shell commands of all READMEs and of what they are too short for."""
    texts = [path.read_text() for path in [*READMES, *DOCS]]
    return [m[2].strip() for text in texts for m in FENCE.finditer(text) if m[1] == "sh"]


def trainer_commands() -> list[list[str]]:
    lines = "\n".join(shell_blocks()).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    return [words[words.index("trainer") :] for words in commands if "trainer" in words]


def test_the_examples_run(tmp_path: Path) -> None:
    """Each by itself, but all in one process, which imports torch once."""
    examples = [
        (title(readme), match[2])
        for readme in READMES
        for match in FENCE.finditer(readme.read_text())
        if match[1] == "python"
    ]
    assert {name for name, _ in examples} >= {"scratch", *map("scratch-{}".format, LIBRARIES)}
    program = (
        f"for name, example in {examples!r}:\n"
        "    exec(compile(example, f'<example of {name}>', 'exec'), {})"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_has_an_example_of_its_own_and_one_at_the_top(library: str) -> None:
    for readme in (ROOT / "README.md", ROOT / "packages" / library / "README.md"):
        assert f"from scratch.{library} import" in readme.read_text()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of somebody who has written down the settings of the story."""
    folder = tmp_path_factory.mktemp("reader")
    story = (ROOT / "docs" / "story.md").read_text()
    (settings,) = [match[2] for match in FENCE.finditer(story) if match[1] == "toml"]
    (folder / "small.toml").write_text(settings)
    return folder


@pytest.mark.parametrize("command", trainer_commands(), ids=" ".join)
def test_the_commands_are_understood(
    command: list[str], reader: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scratch.trainer.cli import parse

    monkeypatch.chdir(reader)
    assert parse(command[1:]) is not None


@pytest.mark.parametrize("page", [*READMES, *DOCS], ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_points_to_is_there(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_two_commands_come_first() -> None:
    assert shell_blocks()[:2] == ["pip install uv && uv run trainer quickstart", "uv run pytest"]
