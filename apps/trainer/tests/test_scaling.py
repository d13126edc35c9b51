"""The formula of docs/scaling.md, held to its limits, and its page, held to the formula."""

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from scratch.nn import TransformerConfig, TransformerLM
from scratch.optim import orthogonalize
from scratch.trainer.plan.links import Link, Machine
from scratch.trainer.plan.scaling import (
    Muon,
    Parallel,
    Prediction,
    Workload,
    count_traffic,
    fewest_micro_batches,
    lay_out,
    memory_bytes,
    predict,
)
from scratch.trainer.plan.scaling_inputs import (
    CARDS,
    PUBLISHED,
    SIZES,
    make_workload,
    orthogonalization_flops,
)

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "scaling.md"
ALL: tuple[Parallel, ...] = ("ddp", "fsdp", "hsdp")

# Round numbers: a byte a second inside, a tenth between; 10 tokens of work a second.
SLOW = Machine(
    gpus_per_node=4,
    inside=Link(bytes_per_second=1000.0, hop_seconds=0.001),
    between=Link(bytes_per_second=100.0, hop_seconds=0.01),
    memory_bytes=1e6,
    memory_bytes_per_second=1e3,
)
NEVER_WAITS = replace(
    SLOW,
    inside=Link(bytes_per_second=math.inf, hop_seconds=0),
    between=Link(bytes_per_second=math.inf, hop_seconds=0),
)
WORK = Workload(
    parameters=1000,
    layers=3,
    block_parameters=300,
    head_share=0.25,
    sequence_tokens=10,
    activation_bytes=100.0,
    tokens_per_second=10.0,
    optimizer_seconds=0.0,
)


def predicted(
    parallel: Parallel,
    gpus: int,
    *,
    work: Workload = WORK,
    machine: Machine = SLOW,
    batch: int | None = None,
    micro_batches: int = 1,
    group_size: int | None = None,
) -> Prediction:
    layout = lay_out(parallel, gpus=gpus, machine=machine, group_size=group_size)
    batch = 2 * gpus if batch is None else batch
    return predict(work, machine, layout, batch=batch, micro_batches=micro_batches)


# --- what links take


def test_an_all_reduce_sends_twice_what_an_all_gather_does_and_both_go_by_the_slowest_link() -> (
    None
):
    node = SLOW.group(4)
    assert node.shared_bytes(400) == 300
    assert node.reduced_bytes(400) == 600
    assert node.share_seconds(400) == pytest.approx(3 * 0.001 + 300 / 1000)
    assert node.reduce_seconds(400) == pytest.approx(2 * 3 * 0.001 + 600 / 1000)
    nodes = SLOW.group(8)  # four adapters a node leave it together: 400 bytes a second
    assert nodes.share_seconds(800) == pytest.approx(6 * 0.001 + 0.01 + 700 / 400)
    assert nodes.reduce_seconds(800) == pytest.approx(2 * (3 * 0.001 + 0.01) + 1400 / 400)
    across = SLOW.group(2, stride=4)  # one process a node has one adapter
    assert (across.nodes, across.bytes_per_second) == (2, 100)


def test_a_latency_grows_with_the_processes_around_a_ring_and_with_doublings_in_a_tree() -> None:
    small, large = SLOW.group(8), SLOW.group(64)
    assert large.share_seconds(0) == pytest.approx(48 * 0.001 + 15 * 0.01)
    assert large.reduce_seconds(0) - small.reduce_seconds(0) == pytest.approx(2 * 3 * 0.01)


def test_nodes_that_are_filled_unevenly_are_refused() -> None:
    with pytest.raises(ValueError, match="must fill its nodes, or be within one, got 6 processes"):
        SLOW.group(6)
    with pytest.raises(ValueError, match="bytes_per_second above 0"):
        Link(bytes_per_second=0, hop_seconds=0)


# --- limits of the formula


@pytest.mark.parametrize("parallel", ALL)
def test_one_gpu_exchanges_nothing(parallel: Parallel) -> None:
    alone = predicted(parallel, 1, micro_batches=2)
    assert alone.step_seconds == alone.compute_seconds == pytest.approx(2 * 10 / 10.0)
    assert alone.traffic.bytes_sent == 0
    assert alone.traffic.all_gathers == alone.traffic.all_reduces == 0


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("gpus", [4, 16])
@pytest.mark.parametrize("parallel", ALL)
def test_links_without_limits_leave_the_computation(
    parallel: Parallel, gpus: int, micro_batches: int
) -> None:
    free = predicted(parallel, gpus, machine=NEVER_WAITS, micro_batches=micro_batches)
    assert free.step_seconds == pytest.approx(free.compute_seconds)
    assert free.tokens_per_second == pytest.approx(gpus * WORK.tokens_per_second)


@pytest.mark.parametrize("parallel", ALL)
def test_a_gpu_is_never_faster_for_more_nodes(parallel: Parallel) -> None:
    rates = [predicted(parallel, gpus).tokens_per_second / gpus for gpus in (4, 8, 16, 64, 256)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < rates[0]


@pytest.mark.parametrize("parallel", ALL)
def test_faster_links_and_fewer_micro_batches_never_make_it_slower(parallel: Parallel) -> None:
    def seconds(factor: float, micro_batches: int) -> float:
        fast = Link(bytes_per_second=1000 * factor, hop_seconds=0.001)
        machine = replace(SLOW, inside=fast, between=fast)
        exposed = predicted(parallel, 16, machine=machine, batch=64, micro_batches=micro_batches)
        return exposed.step_seconds

    assert seconds(100, 1) < seconds(1, 1) < seconds(0.1, 1)
    assert seconds(1, 1) <= seconds(1, 2) <= seconds(1, 4)


def test_groups_of_everybody_are_fsdp() -> None:
    whole, sharded = predicted("hsdp", 16, group_size=16), predicted("fsdp", 16)
    assert replace(whole, layout=sharded.layout) == sharded


def test_ddp_sends_twice_the_gradients_on_many_gpus_and_as_much_for_any_micro_batches() -> None:
    few, many = predicted("ddp", 4), predicted("ddp", 4096)
    assert few.traffic.bytes_sent == pytest.approx(2 * 3 / 4 * 4 * 1000)
    assert many.traffic.bytes_sent == pytest.approx(2 * 4 * 1000, rel=1e-3)
    assert predicted("ddp", 4, micro_batches=2).traffic == few.traffic


# --- by hand


def test_ddp_hides_what_it_can_behind_the_backward_pass_of_the_other_blocks() -> None:
    # A step of 2 s: backward passes of 0.25 * 4/3 s for the head, 1/3 s for each block.
    # All-reduces of 1200 bytes a block, 400 of the root: 1.8 s and 0.6 s, and next to no latency.
    latency = 2 * 3 * 0.001 * 4000 / (25 << 20)
    exposed = 2 * (1.8 - 1 / 3) + 1.8 + 0.6 + latency
    loss = 2 * 3 * 0.001
    prediction = predicted("ddp", 4)
    assert prediction.exposed_seconds == pytest.approx(exposed, abs=latency)
    assert prediction.optimizer_seconds == pytest.approx(loss)
    hidden = predicted("ddp", 4, batch=80)  # ten times the work: only the last block and the root
    assert hidden.exposed_seconds == pytest.approx(1.8 + 0.6, abs=2 * latency)


def test_fsdp_exposes_the_first_gather_and_the_last_scatter_of_each_pass() -> None:
    # 3 hops of 1 ms; gathers of 600 and 200 bytes, scatters of 1200 and 400, three quarters sent.
    gather, gather_root, scatter, scatter_root = 0.453, 0.153, 0.903, 0.303
    work = replace(WORK, tokens_per_second=0.1)  # blocks take long enough to hide everything
    prediction = predicted("fsdp", 4, work=work, micro_batches=2)
    gathers = 2 * (gather_root + 2 * gather)
    assert prediction.exposed_seconds == pytest.approx(gathers + scatter + scatter_root)
    assert prediction.optimizer_seconds == pytest.approx(2 * 2 * 3 * 0.001)  # loss and norm
    # And with nothing to hide behind, all is seen.
    idle = replace(WORK, tokens_per_second=math.inf)
    seconds = predicted("fsdp", 4, work=idle, micro_batches=2).exposed_seconds
    everything = 2 * (gather_root + 6 * gather) + 3 * scatter + scatter_root
    assert seconds == pytest.approx(everything)


def test_hsdp_reduces_its_share_between_nodes_beside_what_goes_on_inside() -> None:
    idle = replace(WORK, tokens_per_second=math.inf)
    inside = predicted("fsdp", 4, work=idle).exposed_seconds
    both = predicted("hsdp", 8, work=idle).exposed_seconds
    block, root = 2 * 0.01 + 300 / 100, 2 * 0.01 + 100 / 100  # a quarter of the gradients
    gather, scatter = 0.453, 0.903
    assert both - inside == pytest.approx(2 * (block - gather - scatter) + block + root)
    shared = predicted("hsdp", 4, work=idle, group_size=2)  # one link for both: no such luck
    gather, scatter, reduce = 0.001 + 0.3, 0.001 + 0.6, 0.002 + 0.6
    roots = (0.001 + 0.1) + (0.001 + 0.2) + (0.002 + 0.2)
    assert shared.exposed_seconds == pytest.approx(roots + 6 * gather + 3 * (scatter + reduce))


def test_the_exchanges_of_an_update_are_counted() -> None:
    def counts(parallel: Parallel, gpus: int, micro_batches: int = 2) -> tuple[int, int, int]:
        layout = lay_out(parallel, gpus=gpus, machine=SLOW)
        traffic = count_traffic(WORK, SLOW, layout, micro_batches=micro_batches)
        return traffic.all_gathers, traffic.reduce_scatters, traffic.all_reduces

    assert counts("ddp", 8) == (0, 0, 1 + 1)  # gradients, loss
    assert counts("fsdp", 8) == (2 * (2 * 3 + 1), 3 + 1, 1 + 1)  # loss, norm
    assert counts("fsdp", 8, micro_batches=1) == (2 * 3 + 1, 3 + 1, 1 + 1)
    assert counts("hsdp", 8) == (2 * (2 * 3 + 1), 3 + 1, 3 + 1 + 1 + 1)


def test_fsdp_sends_weights_for_each_pass_of_a_block_and_gradients_once() -> None:
    sent = predicted("fsdp", 4, batch=16, micro_batches=4).traffic.bytes_sent
    assert sent == pytest.approx(3 / 4 * (4 * 2 * (2 * 900 + 100) + 4 * 1000))
    hsdp = predicted("hsdp", 8, batch=32, micro_batches=4).traffic.bytes_sent
    assert hsdp == pytest.approx(sent + 2 * 1 / 2 * 4 * 1000 / 4)


def test_the_optimizer_is_shared_by_a_group_and_muons_products_by_nobody() -> None:
    work = replace(WORK, optimizer_seconds=8.0)
    loss, norm = SLOW.group(8).reduce_seconds(0), SLOW.group(4).reduce_seconds(0)
    assert predicted("ddp", 8, work=work).optimizer_seconds == pytest.approx(8 + loss)
    assert predicted("fsdp", 8, work=work).optimizer_seconds == pytest.approx(1 + 2 * loss)
    assert predicted("hsdp", 8, work=work).optimizer_seconds == pytest.approx(2 + loss + norm)
    muon = replace(work, muon=Muon(parameters=900, matrices=21, seconds=5.0))
    assert predicted("ddp", 8, work=muon).optimizer_seconds == pytest.approx(8 + loss + 5)
    gathers = 21 * (6 * 0.001 + 0.01) + 7 / 8 * 3600 / 400
    both = predicted("fsdp", 8, work=muon)
    assert both.optimizer_seconds == pytest.approx(1 + 2 * loss + 5 + gathers)
    assert both.traffic.all_gathers == predicted("fsdp", 8).traffic.all_gathers + 21


# --- memory


def test_a_group_shares_what_16_bytes_a_parameter_hold() -> None:
    def held(parallel: Parallel, micro_batches: int) -> float:
        layout = lay_out(parallel, gpus=8, machine=SLOW)
        return memory_bytes(WORK, layout, batch=16, micro_batches=micro_batches)

    gathered = 100 + 2 * 300
    assert held("ddp", 1) == 16_000 + 2000 + 2 * 100
    assert held("fsdp", 1) == 16_000 / 8 + 6 * gathered + 2 * 100
    assert held("hsdp", 1) == 16_000 / 4 + 6 * gathered + 2 * 100
    # Until the last micro-batch, gradients of the whole model are added up in each process.
    assert held("fsdp", 2) == 16_000 / 8 + 2 * gathered + 4 * 1000 + 100
    assert held("ddp", 2) == 16_000 + 2000 + 100


def test_a_share_is_cut_into_as_few_parts_as_there_is_room_for() -> None:
    def parts(memory: float) -> int | None:
        machine = replace(SLOW, memory_bytes=memory / 0.9)
        layout = lay_out("ddp", gpus=2, machine=machine)
        return fewest_micro_batches(WORK, machine, layout, batch=12)

    assert parts(18_601) == 1
    assert parts(18_599) == 2
    assert parts(18_101) == 6
    assert parts(18_099) is None


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match="must divide the batch, got 6 sequences for 4 GPUs"):
        predicted("ddp", 4, batch=6)
    with pytest.raises(ValueError, match="must divide the 2 sequences of a process, got 3"):
        predicted("fsdp", 4, micro_batches=3)
    with pytest.raises(ValueError, match="groups must make up all GPUs, got groups of 3 for 8"):
        lay_out("hsdp", gpus=8, machine=SLOW, group_size=3)


# --- models, cards, and what others have published


def test_the_parts_of_a_workload_are_those_of_the_model() -> None:
    config = TransformerConfig(
        vocab_size=50, context_length=8, d_model=16, num_layers=3, num_heads=2, d_ff=24,
        qk_norm="rms",
    )  # fmt: skip
    model = TransformerLM(config)
    work = make_workload(config, CARDS["H100"], tokens_per_second=1.0, muon=True)
    (block, *_) = model.layers
    assert work.parameters == sum(p.numel() for p in model.parameters())
    assert work.block_parameters == sum(p.numel() for p in block.parameters())
    matrices = [p for layer in model.layers for p in layer.parameters() if p.ndim == 2]
    assert work.muon is not None
    assert work.muon.matrices == len(matrices)
    assert work.muon.parameters == sum(p.numel() for p in matrices)


class _Products(TorchFunctionMode):
    """Counts what products of matrices cost."""

    flops = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> torch.Tensor:
        if func in (torch.addmm, torch.Tensor.matmul, torch.Tensor.__matmul__):
            left, right = args[-2:]
            self.flops += 2 * left.shape[0] * left.shape[1] * right.shape[1]
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("shape", [(48, 48), (48, 64), (32, 80), (80, 32)], ids=str)
def test_the_products_of_muon_are_counted_as_they_are_made(shape: tuple[int, int]) -> None:
    with _Products() as products:
        orthogonalize(torch.randn(shape))
    assert orthogonalization_flops(*shape) == products.flops


def test_7b_with_all_its_state_is_too_much_for_any_one_of_the_cards() -> None:
    for machine in CARDS.values():
        size = SIZES["7B"]
        work = make_workload(size.config, machine, tokens_per_second=size.tokens_per_second)
        layouts = [lay_out(name, gpus=8, machine=machine) for name in ("ddp", "fsdp")]
        parts = [fewest_micro_batches(work, machine, layout, batch=2048) for layout in layouts]
        assert parts[0] is None
        assert parts[1] is not None


def test_published_runs_are_met_within_a_tenth() -> None:
    rows = script().check_rows()
    assert len(rows) == sum(len(published.runs) for published in PUBLISHED)
    assert max(abs(row["off"]) for row in rows) < 0.1


# --- the page


def script() -> ModuleType:
    path = ROOT / "benchmarks" / "predict_scaling.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where its dataclasses look for their names
    spec.loader.exec_module(module)
    return module


def printed(monkeypatch: Any, capsys: Any, *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", ["predict_scaling.py", *map(str, arguments)])
    script().main()
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        *[("--table", name) for name in ("predictions", "memory", "traffic", "muon", "check")],
        ("--table", "predictions", "--card", "H200"),
        ("--table", "memory", "--card", "H200"),
    ],
    ids=" ".join,
)
def test_the_page_shows_what_the_formula_gives(
    arguments: tuple[str, ...], monkeypatch: Any, capsys: Any
) -> None:
    assert printed(monkeypatch, capsys, *arguments) in PAGE.read_text()


def test_ones_own_measurement_takes_the_place_of_what_others_published(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    plan = {
        "name": "mine.toml",
        "model": {
            "vocab_size": 512, "context_length": 64, "d_model": 64, "num_layers": 2,
            "num_heads": 2, "d_ff": 192,
        },
        "batch_size": 32,
        "measured": {"sequences": 8, "seconds": 0.6, "optimizer_seconds": 0.1},
    }  # fmt: skip
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    lines = printed(monkeypatch, capsys, "--plan", path, "--gpus", 1, 16, "--json").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["gpus"], row["parallel"]) for row in rows] == [
        *[(1, name) for name in ("ddp", "fsdp")],
        *[(16, name) for name in ALL],
    ]
    assert rows[0]["compute_seconds"] == pytest.approx(32 / 8 * 0.5)
    assert rows[0]["step_seconds"] == pytest.approx(32 / 8 * 0.5 + 0.1)
    slow = printed(
        monkeypatch, capsys,
        "--plan", path, "--gpus", 16, "--json", "--inside-gbytes", 1, "--between-gbytes", 0.1,
    )  # fmt: skip
    seconds = [json.loads(line)["exposed_seconds"] for line in slow.splitlines()]
    assert all(slow > row["exposed_seconds"] for slow, row in zip(seconds, rows[2:], strict=True))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--tokens-per-second", 1e5), "is of one model, got 3; choose with --size"),
        (("--plan", "no-measure.json"), "needs a plan that measured, got no-measure.json"),
        (("--plan", "gpt2.json"), "needs what `trainer plan --json` prints, got gpt2.json"),
        (("--gpus", 12, "--batch", 24), "must fill its nodes, or be within one, got 12 processes"),
    ],
    ids=str,
)
def test_what_does_not_fit_together_is_told(
    arguments: tuple[object, ...], told: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    model = {
        "vocab_size": 9, "context_length": 8, "d_model": 8, "num_layers": 1, "num_heads": 1,
        "d_ff": 8,
    }  # fmt: skip
    Path("no-measure.json").write_text(json.dumps({"model": model, "measured": None}))
    Path("gpt2.json").write_text(json.dumps([{"name": "small"}]))
    with pytest.raises(SystemExit):
        printed(monkeypatch, capsys, *arguments)
    assert told in " ".join(capsys.readouterr().err.split())
