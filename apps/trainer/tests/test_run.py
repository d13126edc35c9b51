"""The run directory: one owner, one run, checkpoints that are whole or absent."""

import errno
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from scratch.nn import TransformerConfig, TransformerLM
from scratch.optim import SGD
from scratch.train import CheckpointError, Snapshot
from scratch.trainer.commands import Checkpoint
from scratch.trainer.config import ModelSettings, OptimizerSettings, TrainSettings
from scratch.trainer.data.prepare import PreparedData
from scratch.trainer.runs.run import RunDirectory, build_model, with_d_ff

MakeSettings = Callable[..., TrainSettings]
CPU = torch.device("cpu")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(7)
    return nn.Linear(2, 3)


@pytest.fixture
def optimizer(model: nn.Module) -> SGD:
    return SGD(model.parameters(), 0.1)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Return a directory in which four updates are written down."""
    run = RunDirectory(tmp_path / "run")
    (run.path / "checkpoints").mkdir(parents=True)
    run.journal.append(
        {"step": n, "tokens": 9 * n, "seconds": 1.0 * n, "loss": 1 / n} for n in range(1, 5)
    )
    return run


def save(run: RunDirectory, model: nn.Module, optimizer: SGD, step: int, *, keep: int) -> None:
    """Save a checkpoint, and wait until it is there."""
    run.save_checkpoint(model, optimizer, step, keep=keep)
    run.checkpoints.wait()


def begin(run: Path, settings: TrainSettings) -> None:
    data = PreparedData.open(settings.data)
    settings = settings.model_copy(update={"model": with_d_ff(settings.model)})
    RunDirectory(run).begin(settings, data, CPU)


def test_a_run_says_all_about_itself(unbroken: Path, data: Path) -> None:
    assert {path.name for path in unbroken.iterdir()} == {
        ".lock",
        "checkpoints",
        "config.toml",
        "data.json",
        "environment.json",
        "metrics.jsonl",
        "model.safetensors",
        "tokenizer.json",
    }
    environment = json.loads((unbroken / "environment.json").read_text())
    assert environment["seed"] == 0
    assert environment["device"] == "cpu"
    for copy, original in (("data.json", "manifest.json"), ("tokenizer.json", "tokenizer.json")):
        assert (unbroken / copy).read_bytes() == (data / original).read_bytes()


def test_the_saved_settings_are_resolved(unbroken: Path, make_settings: MakeSettings) -> None:
    settings = make_settings(unbroken)
    saved = RunDirectory(unbroken).settings()
    assert saved.model.d_ff == 64
    assert saved == settings.model_copy(update={"model": with_d_ff(settings.model)})
    text = (unbroken / "config.toml").read_text()
    assert "resume" not in text
    assert "config" not in text


def checkpoint_of(run: RunDirectory, step: int) -> Path:
    return run.path / "checkpoints" / f"step-{step:08}" / "checkpoint.pt"


def test_checkpoints_are_folders_named_by_their_step(unbroken: Path) -> None:
    names = sorted(path.name for path in (unbroken / "checkpoints").iterdir())
    assert names == ["latest", *(f"step-{step:08}" for step in (4, 6, 8, 12))]
    assert (unbroken / "checkpoints" / "latest").read_text() == "step-00000012\n"


def state_dict_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes that the file format promises."""
    d, d_ff, vocab = config.d_model, config.d_ff, config.vocab_size
    shapes: dict[str, tuple[int, ...]] = {"token_embeddings.weight": (vocab, d)}
    for i in range(config.num_layers):
        for name in ("q", "k", "v", "output"):
            shapes[f"layers.{i}.attn.{name}_proj.weight"] = (d, d)
        shapes[f"layers.{i}.ln1.weight"] = shapes[f"layers.{i}.ln2.weight"] = (d,)
        shapes[f"layers.{i}.ffn.w1.weight"] = shapes[f"layers.{i}.ffn.w3.weight"] = (d_ff, d)
        shapes[f"layers.{i}.ffn.w2.weight"] = (d, d_ff)
    shapes["ln_final.weight"] = (d,)
    if not config.tie_embeddings:
        shapes["lm_head.weight"] = (vocab, d)
    return shapes


@pytest.mark.parametrize("tied", [False, True])
def test_the_weights_have_the_promised_names_and_shapes(run: RunDirectory, tied: bool) -> None:
    settings = ModelSettings(d_model=16, num_heads=2, num_layers=2, tie_embeddings=tied)
    model = build_model(settings, vocab_size=50)
    run.save_weights(model)
    weights = load_file(run.path / "model.safetensors")
    assert {name: tuple(w.shape) for name, w in weights.items()} == state_dict_shapes(model.config)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_the_weights_are_those_of_the_last_checkpoint(unbroken: Path) -> None:
    run = RunDirectory(unbroken)
    final = run.load_model(CPU).state_dict()
    path = unbroken / "checkpoints" / "step-00000012" / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)["model"]
    assert final.keys() == saved.keys()
    assert all(torch.equal(final[name], saved[name]) for name in saved)


def test_without_final_weights_the_newest_checkpoint_counts(stopped: Path) -> None:
    path = stopped / "checkpoints" / "step-00000008" / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)["model"]
    model = RunDirectory(stopped).load_model(CPU).state_dict()
    assert all(torch.equal(model[name], saved[name]) for name in saved)


def test_a_model_has_the_usual_inner_width_unless_told() -> None:
    assert with_d_ff(ModelSettings(d_model=512, num_heads=8)).d_ff == 1344
    assert with_d_ff(ModelSettings(d_model=512, num_heads=8, feed_forward="silu")).d_ff == 2048
    assert with_d_ff(ModelSettings(d_ff=5)).d_ff == 5
    model = build_model(ModelSettings(num_layers=1), vocab_size=9)
    assert isinstance(model, TransformerLM)
    assert model.config.d_ff == 512


def test_a_second_trainer_is_kept_out(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with run.locked(), pytest.raises(ValueError, match="run is in use by another trainer"):
        RunDirectory(tmp_path / "run").locked().__enter__()
    with run.locked():
        pass  # free again


def test_the_lock_opens_when_something_goes_wrong(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(KeyError), run.locked():
        raise KeyError
    with run.locked():
        pass


def test_a_run_is_only_taken_up_again_if_told_to(
    finished: Path, make_settings: MakeSettings
) -> None:
    with pytest.raises(ValueError, match="run holds a run already; add --resume to go on with it"):
        begin(finished, make_settings(finished))
    begin(finished, make_settings(finished, resume=True))


def test_other_settings_are_refused_and_all_named(
    finished: Path, make_settings: MakeSettings
) -> None:
    settings = make_settings(
        finished,
        resume=True,
        seed=3,
        steps=None,
        train_seconds=5.0,
        model=ModelSettings(context_length=16, d_model=32, num_layers=1, num_heads=2),
        optimizer=OptimizerSettings(lr=0.02),
    )
    before = (finished / "config.toml").read_bytes()
    with pytest.raises(ValueError, match="holds another run, which cannot be resumed with") as info:
        begin(finished, settings)
    differences = str(info.value).split("settings: ")[1].split("; ")
    assert set(differences) == {
        "seed was 0, is 3",
        "steps was 12, is None",
        "train_seconds was None, is 5.0",
        "model.d_model was 16, is 32",
        "optimizer.lr was 0.01, is 0.02",
    }
    assert (finished / "config.toml").read_bytes() == before


def test_settings_that_change_nothing_that_is_computed_may_change(
    finished: Path, make_settings: MakeSettings, data: Path, tmp_path: Path
) -> None:
    settings = make_settings(
        finished,
        resume=True,
        data=shutil.copytree(data, tmp_path / "moved"),
        device="cpu",
        checkpoint_every=3,
        keep_checkpoints=1,
        evaluate_every=5,
        log_every=7,
        micro_batch_size=2,
        config=tmp_path / "other.toml",
    )
    begin(finished, settings)
    saved = RunDirectory(finished).settings()
    assert (saved.data, saved.checkpoint_every) == (tmp_path / "moved", 3)


def test_other_data_is_refused(
    finished: Path, make_settings: MakeSettings, data: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(data, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["origin"]["files"][0]["sha256"] = "0" * 64
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="settings: the data is not the same"):
        begin(finished, make_settings(finished, resume=True, data=other))


def test_a_run_that_never_took_a_step_may_begin_again(
    finished: Path, make_settings: MakeSettings
) -> None:
    shutil.rmtree(finished / "checkpoints")
    (finished / "metrics.jsonl").unlink()
    begin(finished, make_settings(finished, batch_size=3))
    assert RunDirectory(finished).settings().batch_size == 3


def test_checkpoints_without_settings_are_not_taken_for_a_new_run(
    finished: Path, make_settings: MakeSettings
) -> None:
    (finished / "config.toml").unlink()
    with pytest.raises(ValueError, match="run holds a run already"):
        begin(finished, make_settings(finished))


def test_what_a_killed_process_left_behind_is_cleared_away(
    finished: Path, make_settings: MakeSettings
) -> None:
    (finished / "checkpoints" / ".step-00000006.tmp").mkdir()
    begin(finished, make_settings(finished, resume=True))
    assert not list((finished / "checkpoints").glob(".*"))


def test_files_that_a_killed_process_left_behind_are_cleared_away(
    finished: Path, make_settings: MakeSettings
) -> None:
    (finished / ".model.safetensors.0123abcd.tmp").write_bytes(b"half of it")
    begin(finished, make_settings(finished, resume=True))
    assert [path.name for path in finished.glob(".*")] == [".lock"]


def test_what_is_no_run_is_refused_with_advice(tmp_path: Path) -> None:
    message = r"got no config\.toml in it; make one with: trainer train --data"
    with pytest.raises(ValueError, match=message):
        RunDirectory(tmp_path).settings()


def test_a_checkpoint_brings_back_weights_and_totals(
    run: RunDirectory, model: nn.Module, optimizer: SGD
) -> None:
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    save(run, model, optimizer, 3, keep=2)
    nn.init.zeros_(model.get_parameter("weight"))
    totals = run.restore(model, optimizer)
    assert (totals["step"], totals["tokens"], totals["seconds"]) == (3, 27, 3.0)
    assert [record["step"] for record in run.journal.read()] == [1, 2, 3]
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def test_without_checkpoint_a_run_begins_at_step_0(
    run: RunDirectory, model: nn.Module, optimizer: SGD
) -> None:
    assert run.restore(model, optimizer)["step"] == 0
    assert run.journal.read() == []


@pytest.mark.parametrize("keep", [1, 2, 9])
def test_only_the_newest_checkpoints_are_kept(
    run: RunDirectory, model: nn.Module, optimizer: SGD, keep: int
) -> None:
    for step in (1, 2, 3, 4):
        save(run, model, optimizer, step, keep=keep)
    assert run.checkpoint_steps() == [1, 2, 3, 4][-keep:]
    assert len(list((run.path / "checkpoints").iterdir())) == min(keep, 4) + len(["latest"])


def test_half_a_checkpoint_does_not_count(
    run: RunDirectory, model: nn.Module, optimizer: SGD
) -> None:
    save(run, model, optimizer, 2, keep=2)
    checkpoints = run.path / "checkpoints"
    shutil.copytree(checkpoints / "step-00000002", checkpoints / ".step-00000003.tmp")
    (checkpoints / "step-00000004").mkdir()
    assert run.checkpoint_steps() == [2]
    save(run, model, optimizer, 3, keep=2)
    save(run, model, optimizer, 4, keep=3)
    assert run.checkpoint_steps() == [2, 3, 4]
    assert not list(checkpoints.glob(".*"))


@pytest.mark.parametrize("written", [b"", b"the first half"])
def test_a_checkpoint_that_cannot_be_saved_leaves_the_old_one(
    run: RunDirectory,
    model: nn.Module,
    optimizer: SGD,
    written: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save(run, model, optimizer, 2, keep=1)
    before = (run.path / "checkpoints" / "step-00000002" / "checkpoint.pt").read_bytes()

    def save_on_a_full_disk(snapshot: Snapshot, path: Path) -> None:
        path.write_bytes(written)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Snapshot, "save", save_on_a_full_disk)
        with pytest.raises(OSError, match="No space left"):
            save(run, model, optimizer, 4, keep=1)
    (path,) = (run.path / "checkpoints").glob("*/*")
    assert path.parent.name == "step-00000002"
    assert path.read_bytes() == before
    save(run, model, optimizer, 4, keep=1)
    assert run.checkpoint_steps() == [4]


def test_a_damaged_checkpoint_is_named(stopped: Path) -> None:
    path = stopped / "checkpoints" / "step-00000008" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"step-00000008/checkpoint\.pt must be a complete"):
        RunDirectory(stopped).load_model(CPU)


def test_damaged_weights_are_named(finished: Path) -> None:
    path = finished / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        RunDirectory(finished).load_model(CPU)


def test_weights_of_another_model_are_refused(finished: Path) -> None:
    config = finished / "config.toml"
    config.write_text(config.read_text().replace("d_model = 16", "d_model = 32"))
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        RunDirectory(finished).load_model(CPU)


def test_a_folder_of_the_users_own_is_not_taken_for_a_checkpoint(finished: Path) -> None:
    checkpoints = finished / "checkpoints"
    shutil.copytree(checkpoints / "step-00000004", checkpoints / "step-best")
    assert RunDirectory(finished).checkpoint_steps() == [4, 6, 8, 12]


def test_the_best_checkpoint_stays_beside_the_newest(
    run: RunDirectory, model: nn.Module, optimizer: SGD
) -> None:
    for step, loss in ((1, 3.0), (2, 2.0), (3, None), (4, 2.5)):
        save(run, model, optimizer, step, keep=1)
        run.journal.append([{"step": step, "val_loss": loss}])
    assert run.checkpoint_steps() == [2, 4]
    assert run.best_step() == 2
    run.journal.append([{"step": 4, "val_loss": 1.0}])
    run.journal.append([{"step": 5, "tokens": 45, "seconds": 5.0, "loss": 1.0}])
    save(run, model, optimizer, 5, keep=1)
    assert run.checkpoint_steps() == [4, 5]


def test_a_checkpoint_is_chosen_by_name_or_by_step(finished: Path) -> None:
    run = RunDirectory(finished)

    def weights(checkpoint: Checkpoint) -> torch.Tensor:
        return run.load_model(CPU, checkpoint).head_weight

    saved = {step: checkpoint_of(run, step) for step in run.checkpoint_steps()}
    for step, path in saved.items():
        expected = torch.load(path, weights_only=True)["model"]["lm_head.weight"]
        assert torch.equal(weights(step), expected)
    assert torch.equal(weights("final"), weights(12))
    assert torch.equal(weights("latest"), weights(12))
    losses = {r["step"]: r["val_loss"] for r in run.journal.read() if "val_loss" in r}
    assert torch.equal(weights("best"), weights(min(losses, key=losses.__getitem__)))
    with pytest.raises(ValueError, match="checkpoint of step 5, got those of 4, 6, 8, 12"):
        weights(5)


def test_without_evaluation_there_is_no_best_checkpoint(finished: Path) -> None:
    journal = finished / "metrics.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if "val_loss" not in line))
    with pytest.raises(ValueError, match="must hold a checkpoint that was evaluated to have a be"):
        RunDirectory(finished).load_model(CPU, "best")


def damage(run: RunDirectory, step: int) -> None:
    path = checkpoint_of(run, step)
    path.write_bytes(path.read_bytes()[:-100])


def test_a_damaged_checkpoint_is_told_and_set_aside_for_the_one_before(
    run: RunDirectory, model: nn.Module, optimizer: SGD, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2, 3, 4):
        save(run, model, optimizer, step, keep=9)
    damage(run, 4)
    damage(run, 3)
    assert run.restore(model, optimizer)["step"] == 2
    told = capsys.readouterr().err
    assert "step-00000004/checkpoint.pt must be a complete checkpoint" in told
    assert "trying the checkpoint before it" in told
    assert run.checkpoint_steps() == [1, 2]
    assert len(list((run.path / "checkpoints").glob("damaged-step-*"))) == 2
    save(run, model, optimizer, 3, keep=1)  # one that is damaged does not push out a good one
    assert run.checkpoint_steps() == [3]


def test_a_checkpoint_in_the_place_of_another_is_none(
    run: RunDirectory, model: nn.Module, optimizer: SGD, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2, 3):
        save(run, model, optimizer, step, keep=9)
    shutil.copy(checkpoint_of(run, 1), checkpoint_of(run, 3))
    with pytest.raises(CheckpointError, match=r"step-00000003 must be of step 3, got one of 1"):
        run.checkpoints.load(3, model)
    assert run.restore(model, optimizer)["step"] == 2
    assert "must be of step 3, got one of 1; trying" in capsys.readouterr().err


def test_if_no_checkpoint_can_be_read_nothing_is_begun_anew(
    run: RunDirectory, model: nn.Module, optimizer: SGD
) -> None:
    save(run, model, optimizer, 2, keep=9)
    damage(run, 2)
    before = (run.path / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match="holds no checkpoint that can be read; remove it"):
        run.restore(model, optimizer)
    assert run.checkpoint_steps() == [2]
    assert (run.path / "metrics.jsonl").read_bytes() == before


def test_a_step_that_is_named_is_the_one_or_none(
    run: RunDirectory, model: nn.Module, optimizer: SGD
) -> None:
    for step in (1, 2, 3):
        save(run, model, optimizer, step, keep=9)
    damage(run, 2)
    with pytest.raises(CheckpointError, match="step-00000002"):
        run.restore(model, optimizer, step=2)
    with pytest.raises(ValueError, match="checkpoint of step 9, got those of 1, 2, 3"):
        run.restore(model, optimizer, step=9)
    assert run.checkpoint_steps() == [1, 2, 3]
    assert run.restore(model, optimizer, step=1)["step"] == 1
    assert run.checkpoint_steps() == [1]
    assert [record["step"] for record in run.journal.read()] == [1]


def test_training_does_not_wait_for_the_disk_but_the_next_save_does(
    run: RunDirectory, model: nn.Module, optimizer: SGD, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_is_free = threading.Event()
    write = Snapshot.save

    def write_slowly(snapshot: Snapshot, path: Path) -> None:
        assert disk_is_free.wait(60)
        write(snapshot, path)

    monkeypatch.setattr(Snapshot, "save", write_slowly)
    weight = model.get_parameter("weight")
    saved = weight.detach().clone()
    run.save_checkpoint(model, optimizer, 1, keep=9)
    nn.init.zeros_(weight)  # training goes on
    assert run.checkpoint_steps() == []
    disk_is_free.set()
    run.save_checkpoint(model, optimizer, 2, keep=9)
    assert 1 in run.checkpoint_steps()
    run.checkpoints.wait()
    run.checkpoints.load(1, model)
    assert torch.equal(weight, saved)
