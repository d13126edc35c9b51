"""The command line: spelled as promised, answered in a line, with an exit code that tells."""

import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from scratch.trainer.cli import (
    COMMANDS,
    main,
    parse,
)
from scratch.trainer.commands import (
    EvaluateSettings,
    GenerateSettings,
    PrepareSettings,
    QuickstartSettings,
    SweepSettings,
)
from scratch.trainer.config import ModelSettings, TrainSettings
from scratch.trainer.runs.run import RunDirectory


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return what a command that fails tells, in one line on stderr."""

    def fail(*arguments: object) -> str:
        assert run(*arguments) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        last = captured.err.splitlines()[-1]
        assert last.startswith("trainer: ")
        return last.removeprefix("trainer: ")

    return fail


def test_from_text_to_a_model_that_writes(
    corpus: Path, documents: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    assert run("prepare", corpus, "--out", data, "--vocab-size", 300) == 0
    assert "train" in capsys.readouterr().out

    training = f"train --data {data} --out {out} --steps 12 --batch-size 4 --seed 3"
    training += " --checkpoint-every 5 --model.d-model 16 --model.num-layers 1 --model.num-heads 2"
    training += " --model.context-length 16"
    assert run(*training.split()) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    updates = [line for line in lines if "loss" in line]
    assert [line["step"] for line in updates] == list(range(1, 13))
    assert all({"tokens", "seconds", "lr", "grad_norm"} <= line.keys() for line in updates)
    assert [line["step"] for line in lines if "val_loss" in line] == [12]
    for name in ("config.toml", "environment.json", "model.safetensors"):
        assert (out / name).is_file()
    folders = sorted(path.name for path in (out / "checkpoints").glob("step-*"))
    assert folders == ["step-00000010", "step-00000012"]
    captured = capsys.readouterr()
    assert captured.out == ""  # results only, and there is none yet
    assert "\x1b" not in captured.err

    assert run("evaluate", out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) >= {"loss", "perplexity", "bits_per_byte", "tokens", "bytes"}
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    nats = found["loss"] * found["tokens"]
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / found["bytes"])

    assert run("evaluate", out, corpus, "--json") == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == len("".join(documents).encode())
    assert run("evaluate", out, corpus, corpus) == 0
    assert "bits per byte" in capsys.readouterr().out

    texts = []
    for seed in (1, 1, 2):
        assert run("generate", out, "--prompt", "the cat", "--seed", seed) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("the cat")


def test_a_run_is_repeated_by_its_own_settings(unbroken: Path, tmp_path: Path) -> None:
    assert run("train", "--config", unbroken / "config.toml", "--out", tmp_path / "again") == 0
    again, first = tmp_path / "again" / "model.safetensors", unbroken / "model.safetensors"
    assert again.read_bytes() == first.read_bytes()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "file.toml"
    path.write_text(
        "data = 'some data'\nsteps = 7\nseed = 2\n"
        "[model]\nd_model = 32\nnum_heads = 4\ntie_embeddings = true\n"
    )
    return path


def parse_train(line: str) -> TrainSettings:
    settings = parse(["train", *line.split()])
    assert isinstance(settings, TrainSettings)
    return settings


@pytest.mark.parametrize("spelling", ["--config {}", "--config={}"])
def test_flags_override_the_file_and_the_file_the_defaults(config: Path, spelling: str) -> None:
    line = f"{spelling.format(config)} --out run --seed 9 --model.num-heads 2"
    settings = parse_train(line)
    assert settings == TrainSettings(
        data=Path("some data"),
        out=Path("run"),
        config=config,
        steps=7,
        seed=9,
        model=ModelSettings(d_model=32, num_heads=2, tie_embeddings=True),
    )
    assert not parse_train(f"{line} --model.no-tie-embeddings").model.tie_embeddings
    assert parse_train(f"--resume {line}").resume


def test_a_preset_is_below_the_file_and_the_file_below_the_flags(config: Path) -> None:
    preset = parse_train("--preset tinystories --data d --out r")
    assert preset.model.d_model == 512
    assert (preset.train_tokens, preset.batch_size, preset.preset) == (
        327_680_000,
        128,
        "tinystories",
    )
    settings = parse_train(f"--preset tinystories --config {config} --out r --model.num-heads 8")
    assert settings.model.model_dump(include={"d_model", "num_heads", "num_layers"}) == {
        "d_model": 32,
        "num_heads": 8,
        "num_layers": 4,
    }
    assert (settings.seed, settings.batch_size) == (2, 128)


def test_a_length_that_is_given_replaces_that_of_the_preset() -> None:
    settings = parse_train("--preset tinystories --data d --out r --steps 5")
    assert (settings.steps, settings.train_tokens) == (5, None)
    both = parse_train("--data d --out r --steps 5 --train-tokens 7")
    assert (both.steps, both.train_tokens) == (5, 7)  # which train refuses


def test_a_length_in_the_file_replaces_that_of_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "short.toml"
    file.write_text("steps = 5\n")
    settings = parse_train(f"--preset tinystories --config {file} --data d --out r")
    assert (settings.steps, settings.train_tokens) == (5, None)


@pytest.mark.parametrize("flag", ["--init-from", "--init_from"])
def test_the_shape_of_a_model_comes_with_its_weights(flag: str, unbroken: Path) -> None:
    settings = parse_train(f"{flag} {unbroken} --data d --out r --steps 5")
    assert settings.model == RunDirectory(unbroken).settings().model
    assert settings.init_from == unbroken


def test_an_unknown_preset_is_refused_with_the_nearest_one(told: Callable[..., str]) -> None:
    message = told("train", "--preset", "tinystoris", "--data", "d", "--out", "r")
    assert message == "unknown preset tinystoris; did you mean tinystories?"


def test_what_follows_two_dashes_goes_to_every_training_of_a_sweep() -> None:
    settings = parse(["sweep", "--out=s", "--vary=seed=0,1", "--", "--data", "d", "--steps", "3"])
    assert settings == SweepSettings(
        out=Path("s"), vary=("seed=0,1",), train=("--data", "d", "--steps", "3")
    )


def test_the_file_may_name_the_directory_where_one_is(config: Path) -> None:
    config.write_text("data = '.'\nout = 'run'\nsteps = 7\n")
    assert parse_train(f"--config {config}").data == Path()


@pytest.mark.parametrize("line", ["resume = true", "config = 'other.toml'"])
def test_what_is_no_setting_of_a_run_is_refused_in_a_file(
    told: Callable[..., str], config: Path, line: str
) -> None:
    config.write_text(line)
    message = told("train", "--config", config, "--data", "d", "--out", "r")
    assert message == f"{config}: {line.split()[0]} must be given as a flag"


def test_every_command_has_the_flags_of_its_settings() -> None:
    prepare = "prepare a.txt b.txt --out d --vocab-size 300 --validation c.txt --tokenizer t.json"
    evaluate = "evaluate run a.txt b.txt --json --batch-size 3 --device cpu"
    generate = "generate run --prompt hi --max-new-tokens 5 --temperature 0 --top-k 3 --top-p 0.5"
    assert [parse(line.split()) for line in (prepare, evaluate, generate, "quickstart")] == [
        PrepareSettings(
            files=(Path("a.txt"), Path("b.txt")),
            out=Path("d"),
            vocab_size=300,
            validation=(Path("c.txt"),),
            tokenizer=Path("t.json"),
        ),
        EvaluateSettings(
            run=Path("run"),
            files=(Path("a.txt"), Path("b.txt")),
            json_output=True,
            batch_size=3,
            device="cpu",
        ),
        GenerateSettings(
            run=Path("run"), prompt="hi", max_new_tokens=5, temperature=0, top_k=3, top_p=0.5
        ),
        QuickstartSettings(),
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_overview_says_of_a_command_what_its_help_says(name: str) -> None:
    module, kind = COMMANDS[name].settings.split(":")
    settings = getattr(import_module(f"scratch.trainer.{module}"), kind)
    assert COMMANDS[name].summary == settings.__doc__.split("\n")[0]


def test_the_overview_is_there_at_once() -> None:
    heavy = {"torch", "numpy", "pydantic", "tyro", "rich", "plotly"}
    program = f"import sys, scratch.trainer.cli; sys.exit(len({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert all(f"\n    {command}" in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_shows_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    (example, *_) = [line for line in out.splitlines() if line.startswith(f"    trainer {command}")]
    arguments = example.replace('"Once upon a time"', "Once").split()[1:]
    assert parse(arguments)


def test_the_module_is_the_command() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "scratch.trainer", "generate", "--help"],
        capture_output=True,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert answer.stdout.startswith(b"usage: trainer generate")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "commands:"),
        ("tarin", "unknown command tarin; did you mean train?"),
        ("xyz", "unknown command xyz; known are quickstart, download, prepare"),
        ("--stepz", "--stepz"),
        ("train --out r --steps 3", "--data"),
        ("train --data d --out r --stepz 3", "--steps"),
        ("train --data d --out r --steps many", "--steps"),
        ("train --data d --out r --steps 0", "--steps"),
        ("train --data d --out r --model.norm batch", "batch"),
        ("train --config", "config"),
        ("prepare a.txt --out d --vocab-size 256", "257"),
        ("evaluate", "PATH"),
        ("generate run --top-p 0", "--top-p"),
        ("quickstart --train-seconds -1", "--train-seconds"),
    ],
)
def test_a_command_line_that_cannot_be_understood_exits_with_2(
    line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(line.split())
    assert exit_.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err


def test_a_file_of_settings_is_named_when_it_is_wrong(
    told: Callable[..., str], config: Path
) -> None:
    config.write_text("stepz = 3\n")
    message = f"{config}: unknown key stepz; did you mean steps?"
    assert told("train", "--config", config, "--out", "r") == message
    assert "none.toml" in told("train", "--config", "none.toml")


def test_a_table_in_place_of_a_value_is_named(told: Callable[..., str], config: Path) -> None:
    config.write_text("[data]\npath = 'd'\n")
    assert "data" in told("train", "--config", config, "--out", "r")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("prepare none.txt --out d", "none.txt: No such file or directory"),
        ("prepare --out d", "files must name at least one text file, got none"),
        ("train --data none --out r --steps 3", "trainer prepare FILE... --out none"),
        (
            "train --data none --out r",
            "needs one of --steps, --train-tokens and --train-seconds, got none",
        ),
        ("evaluate none", "none must be the directory of a run, got no config.toml in it"),
        ("generate none --prompt x", "none must be the directory of a run"),
    ],
)
def test_a_mistake_is_told_in_a_line(
    line: str,
    message: str,
    told: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in told(*line.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line",
    [
        "train --data {data} --out {file} --steps 1",
        "train --data {data} --out {file}/run --steps 1",
        "quickstart --out {file}",
        "sweep --out {file} --vary seed=1 -- --data {data} --steps 1",
    ],
)
def test_a_file_in_the_place_of_a_directory_is_told_as_such(
    line: str, told: Callable[..., str], data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    message = told(*(word.format(data=data, file=file) for word in line.split()))
    assert message == f"{file}: must be a directory, got a file"
    assert file.read_text() == "mine"


def test_a_bad_loss_is_told_in_a_line(told: Callable[..., str], data: Path, tmp_path: Path) -> None:
    line = f"train --data {data} --out {tmp_path}/run --steps 20 --optimizer.lr 1e30"
    line += " --optimizer.warmup-fraction 0 --model.context-length 16 --model.d-model 12"
    message = told(*line.split())
    assert message.startswith("step 2: loss and gradient norm must be finite, got loss nan")
    assert message.endswith("no checkpoint yet")


def test_weights_that_are_beyond_use_are_told_as_such(
    told: Callable[..., str], data: Path, tmp_path: Path
) -> None:
    line = f"train --data {data} --out {tmp_path}/run --steps 1 --optimizer.lr 1e30"
    line += " --optimizer.floor-fraction 1 --model.context-length 16 --model.d-model 12"
    for again in ([], ["--resume"]):
        assert "the held-out loss must be finite, got nan" in told(*line.split(), *again)
    assert "the weights are beyond use" in told("generate", tmp_path / "run")


def test_a_score_that_is_not_finite_is_json_all_the_same(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"train --data {data} --out {tmp_path}/run --steps 1 --optimizer.lr 1e30"
    line += " --optimizer.floor-fraction 1 --model.context-length 16 --model.d-model 12"
    run(*line.split())
    capsys.readouterr()
    if run("evaluate", tmp_path / "run", "--json") == 0:
        json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


@pytest.mark.parametrize("seed", [-1, 2**63, 10**30])
@pytest.mark.parametrize("line", ["train --data d --out r --steps 1", "generate r"])
def test_a_seed_out_of_range_is_named(
    line: str, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        run(*line.split(), "--seed", seed)
    assert error.value.code == 2
    assert "seed" in capsys.readouterr().err


def test_threads_that_wait_are_asked_to_sleep_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    assert run("generate", "nowhere") == 1
    assert os.environ == {"GOMP_SPINCOUNT": "1000"}


def test_a_choice_of_how_threads_wait_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"OMP_WAIT_POLICY": "ACTIVE"})
    assert run("generate", "nowhere") == 1
    assert os.environ == {"OMP_WAIT_POLICY": "ACTIVE"}


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("train --data d --out r", "; the same command goes on with --resume"),
        ("quickstart", "; the same command goes on"),
    ],
)
def test_an_interrupt_exits_with_130(
    command: str, hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(settings: Any) -> None:
        raise KeyboardInterrupt

    name = command.split()[0]
    module, function = COMMANDS[name].work.split(":")
    monkeypatch.setattr(f"scratch.trainer.{module}.{function}", interrupt)
    assert run(*command.split()) == 130
    assert capsys.readouterr().err == f"\ntrainer: interrupted{hint}\n"


class Unread(io.StringIO):
    """A pipe whose reader has left, as `head` does."""

    def write(self, _text: str) -> int:
        raise BrokenPipeError


def test_a_reader_that_has_seen_enough_ends_it_without_a_word(
    unbroken: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Unread())
    assert run("generate", unbroken, "--max-new-tokens", 3) == 1
    assert capsys.readouterr().err == ""


def test_a_training_whose_progress_nobody_reads_does_not_end_as_if_done(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"train --data {data} --out {tmp_path}/run --steps 3 --model.context-length 16"
    monkeypatch.setattr(sys, "stderr", Unread())
    assert run(*line.split()) != 0 or (tmp_path / "run" / "model.safetensors").exists()


def test_the_environment_names_the_command(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"train --data {data} --out {tmp_path}/run --steps 1 --model.context-length 16"
    monkeypatch.setattr(sys, "argv", ["trainer", *line.split()])
    assert main() == 0
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["command"] == ["trainer", *line.split()]
    assert RunDirectory(tmp_path / "run").settings().steps == 1


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")], ids=repr
)
def test_memory_that_runs_out_is_told_in_a_line(
    error: Exception, told: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(settings: object) -> None:
        raise error

    monkeypatch.setattr("scratch.trainer.using.score.print_score", run_out)
    assert "there must be memory for what was asked" in told("evaluate", "run")


def test_a_mistake_of_ours_is_shown_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(settings: object) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr("scratch.trainer.using.score.print_score", fail)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run("evaluate", "run")


def test_only_train_is_for_several_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("runs", "runs") == 1
    assert "torchrun is for trainer train; runs is for one process" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("train", "--help"), ("train", "--no-such-flag", "1")])
def test_of_several_processes_one_shows_flags(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
) -> None:
    shown: list[str] = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit):
            run(*arguments)
        shown.append("".join(capsys.readouterr()))
    assert arguments[1] in shown[0]
    assert shown[1] == ""


def test_torchrun_is_left_the_sentence_to_tell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    assert run("evaluate", tmp_path / "nowhere") == 1
    message = json.loads((tmp_path / "error.json").read_text())["message"]
    assert "nowhere" in message
    assert "Traceback" not in message
