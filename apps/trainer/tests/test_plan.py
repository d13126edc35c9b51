import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scratch.nn import TransformerConfig, memory_estimate
from scratch.trainer.commands import PlanSettings
from scratch.trainer.config import ModelSettings, TrainSettings
from scratch.trainer.plan import training_plan
from scratch.trainer.plan.burst import Burst, choose_size, measure
from scratch.trainer.plan.gpt2_sizes import CARD_BYTES, account_for_gpt2
from scratch.trainer.plan.plan import print_plan
from scratch.trainer.plan.plan_display import as_bytes, as_flops, duration
from scratch.trainer.plan.training_plan import plan_training

CPU = torch.device("cpu")


def plan(what: object, **changes: Any) -> dict[str, Any]:
    return {"what": str(what), "device": "cpu", "measure": False, **changes}


def planned(capsys: Any, what: object, **changes: Any) -> dict[str, Any]:
    """Return what `trainer plan WHAT --json` prints."""
    print_plan(PlanSettings(**plan(what, json_output=True, **changes)))
    return json.loads(capsys.readouterr().out)


# --- GPT-2: the questions of the course, with figures worked out by hand


def test_gpt2_xl_is_accounted_for_as_by_hand() -> None:
    xl = account_for_gpt2()[-1]
    d, layers, vocab, context = 1600, 48, 50257, 1024
    block = 4 * d * d + 3 * d * 6400 + 2 * d
    assert xl.parameters.total == 2 * vocab * d + layers * block + d == 2_127_057_600
    assert xl.memory.parameters_bytes == 4 * 2_127_057_600
    assert xl.memory.gradients_bytes == 4 * 2_127_057_600
    assert xl.memory.optimizer_bytes == 8 * 2_127_057_600
    projections = layers * 4 * 2 * context * d * d
    scores = layers * 2 * 2 * context * context * d
    feed_forward = layers * 3 * 2 * context * d * 6400
    head = 2 * context * d * vocab
    assert xl.sequence_flops == projections + scores + feed_forward + head == 4_513_336_524_800
    assert xl.shares == {
        "attention_projections": pytest.approx(0.2230, abs=5e-5),
        "attention_scores": pytest.approx(0.0714, abs=5e-5),
        "feed_forward": pytest.approx(0.6691, abs=5e-5),
        "head": pytest.approx(0.0365, abs=5e-5),
    }
    assert xl.adamw_step_flops == 14 * 2_127_057_600
    # 400,000 updates x 1,024 sequences x 3 x 4.513e12 FLOPs, at 9.75e12 FLOP/s
    assert xl.training_days == pytest.approx(6583.6, abs=0.1)


def test_the_four_sizes_are_those_of_gpt2() -> None:
    shapes = [
        (a.name, a.config.num_layers, a.config.d_model, a.config.num_heads, a.config.d_ff)
        for a in account_for_gpt2()
    ]
    assert shapes == [
        ("small", 12, 768, 12, 3072),
        ("medium", 24, 1024, 16, 4096),
        ("large", 36, 1280, 20, 5120),
        ("XL", 48, 1600, 25, 6400),
    ]


def test_in_larger_models_the_feed_forward_networks_weigh_more_and_the_head_less() -> None:
    shares = [account.shares for account in account_for_gpt2()]
    feed_forward = [share["feed_forward"] for share in shares]
    head = [share["head"] for share in shares]
    assert feed_forward == sorted(feed_forward)
    assert head == sorted(head, reverse=True)


def test_in_long_contexts_the_scores_of_attention_weigh_most() -> None:
    xl = account_for_gpt2(context_length=16_384)[-1]
    # scores grow by 16 x 16, everything else by 16
    short = 48 * 4 * 1024 * 1024 * 1600
    rest = 4_513_336_524_800 - short
    assert xl.sequence_flops == 16 * rest + 256 * short
    assert xl.shares["attention_scores"] == pytest.approx(0.5515, abs=5e-5)


@pytest.mark.parametrize("context_length", [1024, 16_384])
def test_the_largest_batch_fills_the_card_and_one_more_does_not_fit(context_length: int) -> None:
    for account in account_for_gpt2(context_length=context_length):
        batch = account.largest_batch

        def total(batch: int, config: TransformerConfig = account.config) -> int:
            return memory_estimate(config, batch_size=batch, device="cuda").total_bytes

        assert batch == 0 or total(batch) <= CARD_BYTES
        assert total(batch + 1) > CARD_BYTES


def test_gpt2_is_shown_in_one_table_of_80_columns(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_plan(PlanSettings(what="gpt2"))
    printed = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line for line in printed.splitlines() if "│" in line}
    assert [cell.strip() for cell in rows["parameters"].split("│")[2:6]] in (
        ["190M", "506M", "1.07B", "2.13B"],
        ["762 MB", "2.02 GB", "4.29 GB", "8.51 GB"],
    )
    assert "4.51 TFLOP" in rows["forward, one sequence"]
    assert "6,584" in rows["days of training*"]
    assert all(len(line) <= 80 for line in printed.splitlines())


def test_gpt2_as_json_takes_other_sizes(capsys: Any) -> None:
    accounts = planned(capsys, "gpt2", vocab_size=1000, batch_size=4)
    assert [account["name"] for account in accounts] == ["small", "medium", "large", "XL"]
    assert (accounts[0]["vocab_size"], accounts[0]["batch_size"]) == (1000, 4)
    assert (
        accounts[0]["parameters"]
        == 2 * 1000 * 768 + 12 * (4 * 768**2 + 3 * 768 * 3072 + 2 * 768) + 768
    )


# --- what is planned


def test_a_preset_is_planned_for_its_data(capsys: Any) -> None:
    told = planned(capsys, "tinystories")
    assert told["parameters"]["total"] == 22_696_448  # about 23 million, says the course
    assert told["model"]["vocab_size"] == 10_000
    assert (told["updates"], told["tokens"]) == (10_000, 327_680_000)
    assert told["tokens_per_update"] == 128 * 256
    assert told["total_flops"] == 327_680_000 * told["flops_per_token"]["total"]
    assert planned(capsys, "owt")["model"]["vocab_size"] == 32_000
    assert planned(capsys, "owt", vocab_size=999)["model"]["vocab_size"] == 999


def test_a_file_is_planned_with_the_vocabulary_and_the_tokens_of_its_data(
    capsys: Any, data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "small.toml"
    file.write_text(f'data = "{data}"\nsteps = 7\nbatch_size = 6\n[model]\ncontext_length = 16\n')
    manifest = json.loads((data / "manifest.json").read_text())
    told = planned(capsys, file)
    assert told["model"]["vocab_size"] == manifest["vocab_size"]
    assert told["data_tokens"] == manifest["splits"]["train"]["tokens"]
    assert (told["updates"], told["tokens"]) == (7, 7 * 6 * 16)
    changed = planned(capsys, file, batch_size=3, context_length=8)
    assert (changed["tokens"], changed["model"]["context_length"]) == (7 * 3 * 8, 8)


def test_a_run_is_planned_as_it_was_told(capsys: Any, unbroken: Path) -> None:
    told = planned(capsys, unbroken)
    assert (told["batch_size"], told["updates"]) == (4, 12)
    assert told["model"]["d_model"] == 16
    assert told["data_tokens"] > 0


def test_a_run_without_data_is_planned_with_its_own_tokenizer(capsys: Any, finished: Path) -> None:
    (finished / "data.json").unlink()
    config = finished / "config.toml"
    lines = config.read_text().splitlines()
    config.write_text("\n".join(['data = "imported"', *lines[1:]]))
    assert lines[0].startswith("data = ")
    assert planned(capsys, finished)["model"]["vocab_size"] == 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = 3\n", "needs the size of the vocabulary, .* such as --vocab-size 4096"),
        ("stebs = 3\n", "unknown key stebs; did you mean steps?"),
        ('steps = "many"\n', "small.toml: steps must be a whole number"),
    ],
)
def test_files_that_say_too_little_or_wrong_things_are_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "small.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        print_plan(PlanSettings(**plan(file)))


def test_a_name_that_means_nothing_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"got tinystorys; did you mean tinystories\? presets are"):
        print_plan(PlanSettings(**plan("tinystorys")))


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "small.toml"
    file.write_text(text + "[model]\ncontext_length = 16\nd_model = 16\nnum_heads = 2\n")
    return file


def test_the_micro_batch_is_that_of_the_settings_or_what_fits(
    capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = write(tmp_path, "steps = 3\nbatch_size = 64\nmicro_batch_size = 8\n")
    told = planned(capsys, cut, vocab_size=300)
    assert (told["micro_batch"], told["largest_micro_batch"]) == (8, 64)
    whole = write(tmp_path, "steps = 3\nbatch_size = 64\n")
    assert (
        planned(capsys, whole, vocab_size=300)["memory_bytes"]["total"]
        > (told["memory_bytes"]["total"])
    )
    fitting = write(tmp_path, 'steps = 3\nbatch_size = 64\nmicro_batch_size = "auto"\n')
    monkeypatch.setattr(training_plan, "free_bytes", lambda _: 4 * 10**6)
    told = planned(capsys, fitting, vocab_size=300)
    assert 1 < told["micro_batch"] < 64
    assert told["micro_batch"] == told["largest_micro_batch"]


def test_without_enough_memory_it_is_planned_but_not_measured(
    capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_plan, "free_bytes", lambda _: 1000)
    file = write(tmp_path, "steps = 3\n")
    assert planned(capsys, file, vocab_size=300)["largest_micro_batch"] is None
    print_plan(PlanSettings(**plan(file, vocab_size=300)))
    assert "not even 1 of 32 sequences" in capsys.readouterr().out
    with pytest.raises(ValueError, match="not enough memory on cpu to measure; --no-measure"):
        print_plan(PlanSettings(**plan(file, vocab_size=300, measure=True)))


# --- how long it takes


def test_an_update_is_a_part_that_grows_with_the_batch_and_one_that_does_not() -> None:
    burst = Burst(sequences=4, updates=5, seconds=1.0, optimizer_seconds=0.2, compiled=False)
    assert burst.update_seconds(4) == pytest.approx(1.0)
    assert burst.update_seconds(128) == pytest.approx(0.2 + 0.8 * 32)


@pytest.mark.parametrize(
    ("each", "micro_batch", "size"),
    [(0.1, 128, 8), (0.1, 6, 6), (9.0, 128, 1), (0.001, 128, 128), (0.1, 1, 1), (0.25, 128, 4)],
)
def test_as_many_sequences_are_timed_as_take_about_a_second(
    each: float, micro_batch: int, size: int
) -> None:
    assert choose_size(lambda size: each * size, micro_batch) == (size, each * size)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_burst_is_of_real_updates(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainSettings.model_validate(
        {
            "data": "d",
            "out": "o",
            "steps": 100,
            "batch_size": 64,
            "precision": "bfloat16",
            "model": ModelSettings(context_length=16, d_model=16, num_layers=1, num_heads=2),
            "optimizer": {"kind": kind},
        }
    )
    burst = measure(settings, vocab_size=300, device=CPU, micro_batch=4)
    assert (burst.sequences, burst.compiled) == (4, False)
    assert 1 <= burst.updates <= 5
    assert 0 < burst.optimizer_seconds <= burst.seconds
    assert burst.update_seconds(64) >= burst.seconds


def fixed_burst(seconds: float) -> Callable[..., Burst]:
    return lambda *_, **__: Burst(
        sequences=4, updates=5, seconds=seconds, optimizer_seconds=0.0, compiled=False
    )


def test_the_time_is_that_of_all_updates(
    capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_plan, "measure", fixed_burst(0.5))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "steps = 3600\nbatch_size = 8\n")
    print_plan(PlanSettings(**plan("small.toml", vocab_size=300, measure=True)))
    printed = capsys.readouterr().out
    assert "time      1:00:00, evaluations and checkpoints not counted" in printed
    assert "speed     1 s an update, 128 tokens/s" in printed
    assert "median of 5, for an update of 4" in printed
    assert all(len(line) <= 80 for line in printed.splitlines())
    by_time = write(tmp_path, "train_seconds = 60\nbatch_size = 8\n")
    told = planned(capsys, by_time, vocab_size=300, measure=True)
    assert (told["seconds"], told["updates"], told["tokens"]) == (60, 60, 60 * 8 * 16)
    assert told["tokens_per_second"] == pytest.approx(128)
    assert told["mfu"] is None  # nobody knows the peak of a CPU


def test_the_utilization_is_of_the_peak_of_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_plan, "measure", fixed_burst(0.5))
    monkeypatch.setattr(training_plan, "mfu", lambda rate, flops, _: rate * flops.total / 1e9)
    file = write(tmp_path, "steps = 10\nbatch_size = 8\n")
    told = plan_training(PlanSettings(**plan(file, vocab_size=300, measure=True)))
    assert told.mfu == pytest.approx(128 * told.flops.total / 1e9)


def test_a_length_that_nobody_has_told_is_left_out(capsys: Any, tmp_path: Path) -> None:
    file = write(tmp_path, "")
    told = planned(capsys, file, vocab_size=300)
    assert told["updates"] is None
    assert told["seconds"] is None
    print_plan(PlanSettings(**plan(file, vocab_size=300)))
    assert "update  32 x 16 = 512 tokens" in capsys.readouterr().out


def test_numbers_are_told_as_a_person_reads_them() -> None:
    assert [as_bytes(n) for n in (999, 2e3, 762e6, 8.51e9)] == [
        "999 B",
        "2 kB",
        "762 MB",
        "8.51 GB",
    ]
    assert [as_flops(n) for n in (4.51e12, 112e6)] == ["4.51 TFLOP", "112 MFLOP"]
    assert [duration(s) for s in (61, 3 * 3600, 10 * 86400)] == ["1:01", "3:00:00", "10.0 days"]
