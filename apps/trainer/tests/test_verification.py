"""Against the real `transformers`: what it makes of exports, and we of what it writes."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scratch.nn import TransformerLM, generate, to_llama_state_dict
from scratch.trainer.commands import ExportSettings, ImportSettings
from scratch.trainer.config import ModelSettings
from scratch.trainer.exchange import export as module
from scratch.trainer.exchange.export import export
from scratch.trainer.exchange.import_ import import_
from scratch.trainer.runs.run import RunDirectory, build_model
from scratch.trainer.toml import dump_toml

CPU = torch.device("cpu")
VARIANTS: dict[str, dict[str, Any]] = {
    "tied": {"tie_embeddings": True},
    "grouped": {"num_heads": 4, "num_kv_heads": 2, "rope_theta": 500.0},
    "longer": {"rope_scaling": "linear", "rope_factor": 2.0},
    "normed queries and keys": {"qk_norm": "rms", "num_kv_heads": 1, "tie_embeddings": True},
    "window": {"qk_norm": "rms", "sliding_window": 5},
}
MakeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def transformers() -> Any:
    with warnings.catch_warnings():
        # Of what it imports itself, not of what is asked of it.
        warnings.simplefilter("ignore", DeprecationWarning)
        import transformers
    return transformers


@pytest.fixture
def make_run(unbroken: Path, tmp_path: Path) -> MakeRun:
    """Return a maker of runs of another shape, with weights of a size that matters."""

    def make(**changes: Any) -> Path:
        path = tmp_path / "run"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        shutil.copy(unbroken / "tokenizer.json", path)
        sizes = {"context_length": 16, "d_model": 16, "num_layers": 2, "num_heads": 2}
        shape = ModelSettings(**{**sizes, **changes})
        run = RunDirectory(unbroken)
        described = run.settings().model_copy(update={"model": shape})
        path.joinpath("config.toml").write_text(dump_toml(described))
        model = build_model(shape, vocab_size=run.tokenizer().vocab_size)
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(torch.randn_like(weight) * 0.4)
        RunDirectory(path).save_weights(model)
        return path

    return make


def check_same_greedy_text(transformers: Any, run: Path, folder: Path, prompt: str) -> None:
    """Check that both write the same, token for token, until the context is full."""
    ours, our_tokenizer = RunDirectory(run).load_model(CPU), RunDirectory(run).tokenizer()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|endoftext|>", "<|endoftext|>")
    given = tokenizer(tokenizer.bos_token + prompt, return_tensors="pt")
    ids = given["input_ids"][0]
    assert ids.tolist() == our_tokenizer.encode("<|endoftext|>" + prompt)
    room = ours.config.context_length - len(ids)
    end = our_tokenizer.special_tokens["<|endoftext|>"]
    expected = list(generate(ours, ids, max_new_tokens=room, temperature=0, stop=end))
    found = theirs.generate(**given, max_new_tokens=room, do_sample=False)[0, len(ids) :]
    found = [token for token in found.tolist() if token != end]
    assert found == expected
    assert len(expected) > 3
    assert tokenizer.decode(found) == our_tokenizer.decode(expected)


def check_verified(capsys: pytest.CaptureFixture[str], what: str) -> None:
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("verified with transformers ")
    assert f"the logits of {what} tokens differ by " in last


def with_rows_in_another_order(model: TransformerLM) -> dict[str, torch.Tensor]:
    state = to_llama_state_dict(model)
    name = "model.layers.0.self_attn.q_proj.weight"
    return {**state, name: state[name].flip(0)}


def test_transformers_and_we_are_of_one_mind(
    transformers: Any,
    unbroken: Path,
    make_run: MakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    # A trained model, from the command to the text.
    export(ExportSettings(run=unbroken, out=out))
    check_verified(capsys, "16 held-out")
    check_same_greedy_text(transformers, unbroken, out, "the 漢字")
    # What transformers writes comes back as the same model, in several files and narrow too.
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    transformers.AutoTokenizer.from_pretrained(out).save_pretrained(tmp_path / "theirs")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 1
    import_(ImportSettings(source=tmp_path / "theirs", out=tmp_path / "back"))
    model, back = (RunDirectory(run).load_model(CPU) for run in (unbroken, tmp_path / "back"))
    assert back.config == model.config
    assert all(map(torch.equal, back.state_dict().values(), model.state_dict().values()))
    # Other shapes.
    for changes in VARIANTS.values():
        run = make_run(**changes)
        export(ExportSettings(run=run, out=out))
        check_verified(capsys, "16 held-out")
    # What is not the same is found, and left to be looked at; small logits hide nothing.
    monkeypatch.setattr(module, "to_llama_state_dict", with_rows_in_another_order)
    message = r"out must give the same logits with transformers .*, got a difference of \d"
    with pytest.raises(ValueError, match=message):
        export(ExportSettings(run=run, out=out))
    timid = RunDirectory(run).load_model(CPU)
    with torch.no_grad():
        timid.head_weight.mul_(1e-4)
    RunDirectory(run).save_weights(timid)
    with pytest.raises(ValueError, match=message):
        export(ExportSettings(run=run, out=out))
    monkeypatch.undo()
    export(ExportSettings(run=run, out=out))
    assert (out / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_every_kind_of_model_writes_the_same_greedy_text(
    transformers: Any, make_run: MakeRun, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run = make_run(**changes)
    export(ExportSettings(run=run, out=tmp_path / "out"))
    check_same_greedy_text(transformers, run, tmp_path / "out", "the")


@pytest.mark.slow
@given(
    kv_heads=st.integers(1, 2),
    groups=st.integers(1, 3),
    pairs=st.integers(1, 4),
    layers=st.integers(1, 2),
    d_ff=st.integers(1, 24),
    tied=st.booleans(),
    normed=st.booleans(),
)
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_small_shapes_are_verified_and_come_back(
    transformers: Any,
    make_run: MakeRun,
    tmp_path: Path,
    kv_heads: int,
    groups: int,
    pairs: int,
    layers: int,
    d_ff: int,
    tied: bool,
    normed: bool,
) -> None:
    heads = kv_heads * groups
    run = make_run(
        num_heads=heads,
        num_kv_heads=kv_heads,
        d_model=2 * heads * pairs,
        num_layers=layers,
        d_ff=d_ff,
        tie_embeddings=tied,
        qk_norm="rms" if normed else "none",
    )
    out, back = tmp_path / "out", tmp_path / "back"
    export(ExportSettings(run=run, out=out))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out)
    shutil.rmtree(tmp_path / "theirs", ignore_errors=True)
    theirs.save_pretrained(tmp_path / "theirs")
    shutil.copy(out / "tokenizer.json", tmp_path / "theirs")
    shutil.rmtree(back, ignore_errors=True)
    import_(ImportSettings(source=tmp_path / "theirs", out=back))
    ids = torch.randint(theirs.config.vocab_size, (2, 16))
    with torch.no_grad():
        ours = RunDirectory(back).load_model(CPU)(ids)
        torch.testing.assert_close(theirs(ids).logits, ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_llama_that_transformers_made_gives_equal_logits(
    transformers: Any, unbroken: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    source = tmp_path / "llama"
    tokenizer = RunDirectory(unbroken).tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocab_size + 20,  # padded, as many are
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=24,
        rms_norm_eps=1e-5,
        eos_token_id=tokenizer.special_tokens["<|endoftext|>"],
        dtype=dtype,
    )
    theirs = transformers.LlamaForCausalLM(config).to(dtype)
    theirs.save_pretrained(source)
    tokenizer.to_huggingface(source / "tokenizer.json")
    import_(ImportSettings(source=source, out=tmp_path / "run"))
    ids = torch.randint(config.vocab_size, (2, 24))
    ours = RunDirectory(tmp_path / "run").load_model(CPU)
    assert {weight.dtype for weight in ours.state_dict().values()} == {torch.float32}
    with torch.no_grad():
        torch.testing.assert_close(theirs.float()(ids).logits, ours(ids), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_five_lines_of_the_model_card_run(
    transformers: Any,
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export(ExportSettings(run=unbroken, out=tmp_path / "tales"))
    capsys.readouterr()
    card = (tmp_path / "tales" / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(card.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out.startswith("Once upon a time")
    import huggingface_hub

    data = huggingface_hub.ModelCard(card).data.to_dict()
    assert json.loads(json.dumps(data))["model-index"][0]["name"] == "tales"
