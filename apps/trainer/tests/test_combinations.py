import re

import pytest

from scratch.trainer.cli import parse
from scratch.trainer.sweep.combinations import check_common, combine


def flags(vary: list[str], case: list[str]) -> list[list[str]]:
    return [combination.flags() for combination in combine(vary, case)]


def test_what_varies_is_combined_with_every_case_one_case_after_another() -> None:
    assert [c.name for c in combine(["optimizer.lr=1e-3,3e-3"], ["model.norm=pre", "seed=1"])] == [
        "model.norm=pre,optimizer.lr=1e-3",
        "model.norm=pre,optimizer.lr=3e-3",
        "seed=1,optimizer.lr=1e-3",
        "seed=1,optimizer.lr=3e-3",
    ]


def test_settings_become_the_flags_of_train() -> None:
    assert flags(["--batch-size=8"], ["model.tie_embeddings=true --micro-batch=4"]) == [
        ["--model.tie-embeddings", "--micro-batch-size", "4", "--batch-size", "8"]
    ]
    assert flags(["model.tie-embeddings=True,false"], []) == [
        ["--model.tie-embeddings"],
        ["--model.no-tie-embeddings"],
    ]
    assert flags([], ["sample_prompt='- a, b='"]) == [["--sample-prompt=- a, b="]]


def test_the_flags_mean_what_was_written() -> None:
    (combination,) = combine(
        ["model.d_ff=None"], ["model.tie_embeddings=true sample_prompt='-x y' max-time=3"]
    )
    common = ["train", "--data", "d", "--out", "o"]
    settings = parse([*common, *combination.flags()]).model_dump()
    assert settings["model"]["d_ff"] is None
    assert settings["model"]["tie_embeddings"] is True
    assert (settings["sample_prompt"], settings["max_seconds"]) == ("-x y", 3)


def test_names_can_be_names_of_directories_and_stay_different() -> None:
    values = ["config=a/b.toml", "config=a_b.toml", f"sample-prompt={'x' * 300}"]
    values += [f"sample-prompt={'x' * 299}y", "sample-prompt=../.."]
    names = [combination.name for combination in combine([], values)]
    assert len(set(names)) == len(values)
    assert all("/" not in name and len(name) < 200 for name in names)
    assert names[1] == "config=a_b.toml"


@pytest.mark.parametrize(
    ("vary", "case", "message"),
    [
        ([], [], "sweep needs something to compare, such as --vary"),
        (["optimizer.lr"], [], "--vary optimizer.lr must have the form FLAG=VALUE"),
        (["optimizer.lr="], [], "must be FLAG=VALUE,VALUE"),
        (["optimizer.lr=1,,2"], [], "must be FLAG=VALUE,VALUE"),
        (["optimizer.lr=1,1"], [], "--vary optimizer.lr=1,1 has 1 twice"),
        (["optimizer.rl=1"], [], "unknown flag optimizer.rl; did you mean optimizer.lr?"),
        (["lr=1"], [], "unknown flag lr; did you mean optimizer.lr?"),
        (["out=1"], [], "out is not for a sweep to vary: each run has its directory"),
        (["resume=true"], [], "resume is not for a sweep to vary: a sweep goes on"),
        (["seed=1", "--seed=2"], [], "--vary: seed must be given once"),
        (["seed=1"], ["seed=2"], "--case 'seed=2': seed must be given once"),
        ([], ["seed=1 seed=2"], "seed must be given once"),
        ([], ["seed"], "must have the form FLAG=VALUE, got 'seed'"),
        ([], [""], "got an empty one"),
        (["model.tie_embeddings=yes"], [], "tie_embeddings must be true or false, got 'yes'"),
    ],
)
def test_what_cannot_be_combined_is_refused(vary: list[str], case: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        flags(vary, case)


@pytest.mark.parametrize(
    ("common", "message"),
    [
        (["--out", "x"], "--out is not for `--`: each run has its directory in --out of the sweep"),
        (["--resume"], "--resume is not for `--`: a sweep goes on with what is not finished"),
        (["--optimizer.lr", "1"], "--optimizer.lr is varied"),
        (["--optimizer.lr=1"], "--optimizer.lr=1 is varied"),
        (["--model.no-tie-embeddings"], "--model.no-tie-embeddings is varied"),
        (["--micro-batch", "1"], "--micro-batch is varied"),
    ],
)
def test_flags_for_all_leave_alone_what_the_sweep_sets(common: list[str], message: str) -> None:
    combinations = combine(
        ["optimizer.lr=1,2", "model.tie_embeddings=true", "micro_batch_size=1"], []
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        check_common(["--data", "d", *common], combinations)
    check_common(["--data", "d", "--steps", "3", "--optimizer.beta1", "0.8"], combinations)
