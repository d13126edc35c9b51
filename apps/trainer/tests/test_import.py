"""Imports: a run of what others wrote, exactly; and what is no such thing is told, and why."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from scratch.bpe import Tokenizer
from scratch.trainer.commands import (
    EvaluateSettings,
    ExportSettings,
    GenerateSettings,
    ImportSettings,
)
from scratch.trainer.config import ModelSettings
from scratch.trainer.exchange.export import export
from scratch.trainer.exchange.foreign_weights import read_weights
from scratch.trainer.exchange.import_ import import_
from scratch.trainer.runs.run import RunDirectory, build_model
from scratch.trainer.toml import dump_toml
from scratch.trainer.training.train import train
from scratch.trainer.using.continuation import Continuation, Sampling, draw_tokens
from scratch.trainer.using.sample import print_sample
from scratch.trainer.using.score import score

CPU = torch.device("cpu")
END_OF_TEXT = "<|endoftext|>"
Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def exported(unbroken: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "tales"
    export(ExportSettings(run=unbroken, out=out, verify=False))
    return out


@pytest.fixture
def source(exported: Path, tmp_path: Path) -> Path:
    """Return a copy of a folder with a model, to do with as one likes."""
    return shutil.copytree(exported, tmp_path / "tales")


@pytest.fixture
def imported(exported: Path, tmp_path: Path) -> Path:
    out = tmp_path / "runs" / "tales"
    import_(ImportSettings(source=exported, out=out))
    return out


def edit(path: Path, change: Edit) -> None:
    """Change a file of JSON."""
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def give_rows(source: Path, rows: int) -> None:
    """Let a model have so many rows, the last ones dropped or zero."""
    path = source / "model.safetensors"
    weights = load_file(path)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], torch.zeros(9, 16)])[:rows].clone()
    save_file(weights, path)
    edit(source / "config.json", lambda content: content.update(vocab_size=rows))


def refused(source: Path, message: str) -> None:
    """Check that an import is refused, and leaves nothing behind."""
    out = source.parent / "out"
    with pytest.raises(ValueError, match=message):
        import_(ImportSettings(source=source, out=out))
    assert [path.name for path in source.parent.iterdir()] == [source.name]


def same_weights(one: Path, other: Path) -> bool:
    first, second = (RunDirectory(run).load_model(CPU).state_dict() for run in (one, other))
    return list(first) == list(second) and all(
        torch.equal(first[name], second[name]) for name in first
    )


def greedy_text(run: Path, prompt: str) -> str:
    directory = RunDirectory(run)
    sampling = Sampling(max_new_tokens=30, temperature=0)
    model, tokenizer = directory.load_model(CPU), directory.tokenizer()
    ids = draw_tokens(model, tokenizer, prompt, sampling, seed=0)
    return "".join(Continuation(tokenizer, sampling).follow(ids))


# --- there and back


def test_out_and_in_again_is_the_same_run_to_the_bit(unbroken: Path, imported: Path) -> None:
    assert same_weights(unbroken, imported)
    before, after = RunDirectory(unbroken), RunDirectory(imported)
    assert after.tokenizer().vocabulary == before.tokenizer().vocabulary
    assert after.settings().model == before.settings().model
    assert greedy_text(imported, "the 漢字") == greedy_text(unbroken, "the 漢字")


@given(
    kv_heads=st.integers(1, 2),
    groups=st.integers(1, 2),
    pairs=st.integers(1, 3),
    layers=st.integers(1, 2),
    d_ff=st.integers(1, 9),
    context=st.integers(2, 12),
    theta=st.floats(10.0, 1e6),
    tied=st.booleans(),
    qk_norm=st.sampled_from(["none", "rms"]),
)
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_small_shapes_come_back_to_the_bit(
    unbroken: Path,
    tmp_path: Path,
    kv_heads: int,
    groups: int,
    pairs: int,
    layers: int,
    d_ff: int,
    context: int,
    theta: float,
    tied: bool,
    qk_norm: Any,
) -> None:
    heads = kv_heads * groups
    shape = ModelSettings(
        context_length=context,
        d_model=2 * heads * pairs,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=None if groups == 1 else kv_heads,
        d_ff=d_ff,
        rope_theta=theta,
        tie_embeddings=tied,
        qk_norm=qk_norm,
    )
    run, out, back = (tmp_path / name for name in ("run", "out", "back"))
    for path in (run, back):
        shutil.rmtree(path, ignore_errors=True)
    run.mkdir()
    origin = RunDirectory(unbroken)
    origin.tokenizer().save(run / "tokenizer.json")
    described = origin.settings().model_copy(update={"model": shape})
    run.joinpath("config.toml").write_text(dump_toml(described))
    vocab_size = origin.tokenizer().vocab_size
    RunDirectory(run).save_weights(build_model(shape, vocab_size=vocab_size))

    export(ExportSettings(run=run, out=out, verify=False))
    import_(ImportSettings(source=out, out=back))
    assert RunDirectory(back).settings().model == shape
    assert same_weights(run, back)


def test_an_import_of_an_export_of_an_import_is_the_same(imported: Path, tmp_path: Path) -> None:
    export(ExportSettings(run=imported, out=tmp_path / "out", verify=False))
    import_(ImportSettings(source=tmp_path / "out", out=tmp_path / "again"))
    assert same_weights(imported, tmp_path / "again")


def test_the_card_of_an_import_claims_no_training(imported: Path, tmp_path: Path) -> None:
    export(ExportSettings(run=imported, out=tmp_path / "again", verify=False))
    card = (tmp_path / "again" / "README.md").read_text(encoding="utf-8")
    assert "It was imported, not trained" in card
    assert "`<|endoftext|>` is `bos_token` and `eos_token` in one." in card
    assert "In training" not in card
    assert "## Training" not in card


# --- what an imported model is good for


def test_an_imported_model_is_evaluated_and_continues_text(
    imported: Path, unbroken: Path, data: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for choices in ({"files": (corpus,)}, {"data": data}):
        expected = score(EvaluateSettings(run=unbroken, **choices))
        assert score(EvaluateSettings(run=imported, **choices)) == expected
    texts: set[str] = set()
    for run in (unbroken, imported):
        print_sample(GenerateSettings(run=run, prompt="the", seed=1, max_new_tokens=20))
        texts.add(capsys.readouterr().out.removeprefix(str(run)))
    assert len(texts) == 1


def test_without_files_the_evaluation_says_what_to_name(imported: Path) -> None:
    message = r"imported must hold the prepared data of .*tales, .* --data, or name files"
    with pytest.raises(ValueError, match=message):
        score(EvaluateSettings(run=imported))


def test_training_goes_on_from_it_in_a_run_of_its_own(
    imported: Path, make_settings: Callable[..., Any], tmp_path: Path
) -> None:
    shape = RunDirectory(imported).settings().model
    chosen = {"steps": 1, "model": shape, "init_from": imported}
    with pytest.raises(ValueError, match="holds a run already"):
        train(make_settings(imported, **chosen))
    further = train(make_settings(tmp_path / "further", **chosen))
    first = next(line for line in further.journal.read() if "loss" in line)
    assert first["loss"] < 5.3  # that of one without training is log(300) = 5.7


# --- what is read


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights_are_widened_exactly(source: Path, tmp_path: Path, dtype: Any) -> None:
    path = source / "model.safetensors"
    weights = {name: weight.to(dtype) for name, weight in load_file(path).items()}
    save_file(weights, path)
    assert {weight.dtype for weight in read_weights(source).values()} == {torch.float32}
    import_(ImportSettings(source=source, out=tmp_path / "run"))
    model = RunDirectory(tmp_path / "run").load_model(CPU)
    embedding = model.token_embeddings.weight
    assert embedding.dtype == torch.float32
    assert torch.equal(embedding, weights["model.embed_tokens.weight"].float())


def shard(source: Path) -> list[str]:
    """Part the weights of a folder into files with an index; return their names."""
    weights = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    names = {name: f"part-{number % 3}.safetensors" for number, name in enumerate(weights)}
    for file in set(names.values()):
        save_file({n: w for n, w in weights.items() if names[n] == file}, source / file)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return sorted(set(names.values()))


def test_weights_in_several_files_are_one_model(
    source: Path, unbroken: Path, tmp_path: Path
) -> None:
    shard(source)
    import_(ImportSettings(source=source, out=tmp_path / "run"))
    assert same_weights(unbroken, tmp_path / "run")


def test_tensors_that_follow_from_the_config_are_left_out(
    source: Path, unbroken: Path, tmp_path: Path
) -> None:
    path = source / "model.safetensors"
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(load_file(path) | old, path)
    import_(ImportSettings(source=source, out=tmp_path / "run"))
    assert same_weights(unbroken, tmp_path / "run")


def test_what_a_tokenizer_puts_around_a_text_is_left_out(
    source: Path, unbroken: Path, tmp_path: Path
) -> None:
    template = {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}
    edit(source / "tokenizer.json", lambda content: content.update(post_processor=template))
    import_(ImportSettings(source=source, out=tmp_path / "run"))
    tokenizer = RunDirectory(tmp_path / "run").tokenizer()
    assert tokenizer.vocabulary == RunDirectory(unbroken).tokenizer().vocabulary


def rename_end(source: Path, name: str) -> None:
    """Give the token that ends a document another name."""
    text = (source / "tokenizer.json").read_text(encoding="utf-8")
    (source / "tokenizer.json").write_text(text.replace(END_OF_TEXT, name), encoding="utf-8")


@pytest.mark.parametrize("as_list", [False, True])
def test_an_end_of_another_name_is_the_end_here(
    source: Path,
    unbroken: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    as_list: bool,
) -> None:
    rename_end(source, "</s>")
    if as_list:
        change = lambda content: content.update(eos_token_id=[7, content["eos_token_id"]])  # noqa: E731
        edit(source / "config.json", change)
    import_(ImportSettings(source=source, out=tmp_path / "run"))
    tokenizer = RunDirectory(tmp_path / "run").tokenizer()
    assert tokenizer.vocabulary == RunDirectory(unbroken).tokenizer().vocabulary
    assert "</s> ends a document, and is called <|endoftext|> from here on" in (
        capsys.readouterr().err
    )
    assert greedy_text(tmp_path / "run", "the") == greedy_text(unbroken, "the")


def test_rows_without_a_token_get_one_that_no_text_holds(
    source: Path, unbroken: Path, tmp_path: Path
) -> None:
    give_rows(source, 307)
    import_(ImportSettings(source=source, out=tmp_path / "run"))
    directory = RunDirectory(tmp_path / "run")
    assert directory.load_model(CPU).config.vocab_size == directory.tokenizer().vocab_size == 307
    text = "the 漢字 <|reserved|> <|endoftext|>"
    before = RunDirectory(unbroken).tokenizer()
    assert directory.tokenizer().encode(text) == before.encode(text)
    # The tokens survive the way out and in again.
    export(ExportSettings(run=tmp_path / "run", out=tmp_path / "out", verify=False))
    import_(ImportSettings(source=tmp_path / "out", out=tmp_path / "again"))
    assert RunDirectory(tmp_path / "again").tokenizer().vocab_size == 307


# --- what is refused


def test_a_run_is_never_overwritten(exported: Path, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(ValueError, match="run must be new or empty, got something in it"):
        import_(ImportSettings(source=exported, out=finished))
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma"}, r"config\.json: model_type must be one of llama, qwen3"),
        ({"rms_norm_eps": 1e-6}, r"config\.json: rms_norm_eps must be 1e-05"),
        ({"hidden_size": "wide"}, r"config\.json: "),
        ({"quantization_config": {"bits": 4}}, "must be of weights in floating point, got a quant"),
        ({"num_hidden_layers": 2}, r"weights of its config\.json: .* missing model\.layers\.1\."),
        ({"intermediate_size": 9}, r"weights of its config\.json: .* must have shape \(9, 16\)"),
        ({"vocab_size": 10**12}, r"weights of its config\.json: .* shape \(1000000000000, 16\)"),
        ({"num_hidden_layers": 10**10}, r"must hold the tensors of 10000000000 layers"),
        ({"vocab_size": 301}, r"weights of its config\.json: .* must have shape \(301, 16\)"),
    ],
    ids=str,
)
def test_a_config_that_is_not_of_this_model_is_refused(
    source: Path, changes: dict[str, Any], message: str
) -> None:
    edit(source / "config.json", lambda content: content.update(changes))
    refused(source, message)


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused(source: Path) -> None:
    give_rows(source, 299)
    refused(source, r"tokenizer\.json must have ids below 299, .*, got ids up to 299")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", ["", "{", "[1]", "7", "[" * 10**5], ids=len)
def test_files_that_are_no_json_objects_are_refused(source: Path, name: str, content: str) -> None:
    (source / name).write_text(content)
    refused(source, f"{name} must hold a JSON object")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_that_is_missing_is_named(source: Path, name: str) -> None:
    (source / name).unlink()
    refused(source, rf"must .*{name}.*, got (no|none|neither)")


def test_pickled_weights_are_not_read(source: Path) -> None:
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    refused(source, r"got neither; pytorch_model\.bin may run code when it is read, and is not")


def test_torn_weights_are_refused_by_name(source: Path) -> None:
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refused(source, r"model\.safetensors must be a complete file of safetensors")


def test_a_missing_part_is_named(source: Path) -> None:
    (source / shard(source)[1]).unlink()
    refused(source, r"must hold the file part-1\.safetensors that .*index\.json names, got none")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../secret.safetensors"}}, r"must name files beside it, got '\.\./s"),
        ({"weights": {}}, "must be a JSON object with a weight_map"),
        ([], "must be a JSON object with a weight_map"),
    ],
)
def test_an_index_that_is_none_is_refused(source: Path, index: Any, message: str) -> None:
    (source / "model.safetensors").unlink()
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(source, message)


def test_weights_that_are_whole_numbers_are_refused(source: Path) -> None:
    path = source / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, "model.norm.weight": torch.ones(16, dtype=torch.int8)}, path)
    refused(
        source, r"model\.norm\.weight in .* must be float32, bfloat16 or float16, got torch.int8"
    )


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(source: Path, value: float) -> None:
    path = source / "model.safetensors"
    save_file({**load_file(path), "model.norm.weight": torch.full((16,), value)}, path)
    refused(source, r"model\.norm\.weight in .* must hold finite numbers only")


def test_a_tokenizer_of_another_kind_is_refused_by_its_own_name(source: Path) -> None:
    edit(source / "tokenizer.json", lambda content: content["model"].update(type="Unigram"))
    refused(source, r"tales/tokenizer\.json cannot be read as a Vocabulary: model\.type must be")


def test_a_tokenizer_without_an_end_is_refused(source: Path) -> None:
    rename_end(source, "</s>")
    edit(source / "config.json", lambda content: content.update(eos_token_id=None))
    message = r"must have the special token <\|endoftext\|>, .*, got eos_token_id None and </s>"
    refused(source, message)


def test_a_token_of_the_name_that_a_row_would_get_is_refused(source: Path) -> None:
    tokenizer = Tokenizer.from_huggingface(source / "tokenizer.json")
    vocabulary = tokenizer.vocabulary
    specials = [*vocabulary.special_tokens, "<|reserved 302|>"]
    Tokenizer(vocabulary.tokens, vocabulary.merges, specials).to_huggingface(
        source / "tokenizer.json"
    )
    give_rows(source, 303)
    refused(source, "must not have the token .*reserved 302.* by another id")
