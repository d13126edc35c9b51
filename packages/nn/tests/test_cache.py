"""The cache: every form of a step says what the model says of the whole sequence."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from scratch.nn import RMSNorm, TransformerConfig, TransformerLM, generate, plain_forms
from scratch.nn import _decoders as decoders
from scratch.nn._cache import KeyValueCache, visible_columns
from scratch.nn._decoders import Caching, Decoder, Recomputing, choose_decoder
from scratch.nn._lean import LeanSteps, lean_steps_apply
from scratch.nn._steps import reusable_capacity, static_step
from scratch.nn._visibility import Visibility

VOCAB, CONTEXT = 13, 12
VARIANTS: dict[str, dict[str, Any]] = {
    "usual": {},
    "grouped queries": {"num_kv_heads": 2},
    "one key head": {"num_kv_heads": 1},
    "normed queries": {"qk_norm": "rms", "num_kv_heads": 2},
    "no position": {"position": "none"},
    "post norm": {"norm": "post"},
    "no norm": {"norm": "none"},
    "silu": {"feed_forward": "silu"},
    "squared relu": {"feed_forward": "relu2"},
    "tied": {"tie_embeddings": True},
    "capped": {"logit_cap": 2.0},
    "linear scaling": {"rope_scaling": "linear", "rope_factor": 4.0},
    "ntk scaling": {"rope_scaling": "ntk", "rope_factor": 4.0},
    "window": {"sliding_window": 3},
    "window of one": {"sliding_window": 1},
    "much at once": {
        "num_kv_heads": 2,
        "qk_norm": "rms",
        "norm": "post",
        "sliding_window": 4,
        "logit_cap": 5.0,
        "tie_embeddings": True,
        "checkpointing": "block",
    },
}
FORMS = ["lean", "modules", "static"]

every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_form = pytest.mark.parametrize("form", FORMS)


def make_model(**changes: Any) -> TransformerLM:
    sizes: dict[str, Any] = {"d_model": 16, "num_layers": 2, "num_heads": 4, "d_ff": 24}
    config = TransformerConfig(
        **{"vocab_size": VOCAB, "context_length": CONTEXT, **sizes} | changes
    )
    model = TransformerLM(config)
    for module in model.modules():
        if isinstance(module, RMSNorm):  # a weight of ones could be left out unseen
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


@contextmanager
def caching(
    model: TransformerLM, prompts: Sequence[Tensor], form: str, *, capacity: int = CONTEXT
) -> Iterator[Caching]:
    """Let steps be taken in one of the forms."""
    with pytest.MonkeyPatch.context() as patch:
        if form == "lean":
            assert lean_steps_apply(model)
        else:
            patch.setattr(decoders, "lean_steps_apply", lambda _: False)
        patch.setattr(decoders, "compiled_step", lambda *_: static_step)
        execution = "compiled" if form == "static" else "eager"
        yield Caching(model, prompts, capacity=capacity, execution=execution)


def answers(decoder: Decoder, rests: Sequence[Tensor]) -> Tensor:
    """Return the logits of each step that reads `rests`, which are as long: `(steps, batch, v)`."""
    steps = torch.stack(list(rests), 1)
    return torch.stack([decoder.start(), *map(decoder.step, steps)])


def full_answers(model: TransformerLM, rows: Sequence[Tensor], steps: int) -> Tensor:
    with torch.no_grad():
        return torch.stack([model(row)[-steps - 1 :] for row in rows], 1)


# --- equal to the whole sequence


@every_form
@every_variant
def test_cached_logits_are_those_of_the_whole_sequence(variant: str, form: str) -> None:
    model = make_model(**VARIANTS[variant])
    rows = [torch.randint(VOCAB, (length,)) for length in (CONTEXT, 9, 8)]
    prompts, rests = [row[:-7] for row in rows], [row[-7:] for row in rows]
    with caching(model, prompts, form) as decoder:
        assert_close(answers(decoder, rests), full_answers(model, rows, 7), rtol=0, atol=1e-5)


@settings(deadline=None, derandomize=True, max_examples=15)
@given(
    variant=st.sampled_from(sorted(VARIANTS)),
    form=st.sampled_from(FORMS),
    lengths=st.lists(st.integers(1, CONTEXT - 1), min_size=1, max_size=5),
    data=st.data(),
)
def test_any_lengths_may_stand_side_by_side(
    variant: str, form: str, lengths: list[int], data: st.DataObject
) -> None:
    steps = data.draw(st.integers(1, CONTEXT - max(lengths)))
    model = make_model(**VARIANTS[variant]).double()
    rows = [torch.randint(VOCAB, (length + steps,)) for length in lengths]
    prompts, rests = [row[:-steps] for row in rows], [row[-steps:] for row in rows]
    with caching(model, prompts, form, capacity=max(lengths) + steps) as decoder:
        assert_close(answers(decoder, rests), full_answers(model, rows, steps), rtol=0, atol=1e-12)


@every_form
@pytest.mark.parametrize("window", [None, 3])
def test_rows_of_one_length_need_no_mask(form: str, window: int | None) -> None:
    model = make_model(sliding_window=window)
    rows = list(torch.randint(VOCAB, (3, CONTEXT)))
    prompts, rests = [row[:2] for row in rows], [row[2:] for row in rows]
    with caching(model, prompts, form) as decoder:
        assert_close(answers(decoder, rests), full_answers(model, rows, 10), rtol=0, atol=1e-5)


@every_form
def test_the_plain_form_is_the_measure_and_slides(form: str) -> None:
    model = make_model()
    prompts = [torch.randint(VOCAB, (length,)) for length in (10, 3)]
    rests = list(torch.randint(VOCAB, (2, 8)))
    with caching(model, prompts, form, capacity=CONTEXT) as decoder:
        sliding = decoders.Sliding(model, prompts, decoder)
        plain = Recomputing(model, prompts)
        assert_close(answers(sliding, rests), answers(plain, rests), rtol=0, atol=1e-5)
    windows = [torch.cat(pair)[-CONTEXT:] for pair in zip(prompts, rests, strict=True)]
    last = torch.stack([model(window)[-1] for window in windows])
    assert_close(plain.start(), last, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("form", ["modules", "static"])
def test_narrow_models_are_asked_in_their_dtype(form: str, dtype: torch.dtype) -> None:
    model = make_model().to(dtype)
    assert not lean_steps_apply(model)
    row = torch.randint(VOCAB, (CONTEXT,))
    with caching(model, [row[:4]], form) as decoder:
        actual = answers(decoder, [row[4:]])
    assert actual.dtype == dtype
    assert_close(actual, full_answers(model, [row], 8), rtol=0, atol=0.06)  # a few roundings


def test_under_autocast_the_modules_take_the_steps() -> None:
    model, row = make_model(), torch.randint(VOCAB, (CONTEXT,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoder = Caching(model, [row[:4]], capacity=CONTEXT, execution="eager")
        actual, expected = answers(decoder, [row[4:]]), full_answers(model, [row], 8)
    assert decoder.lean is None
    assert_close(actual, expected, rtol=0, atol=0.06)


# --- nothing leaks


@every_form
def test_what_fills_up_short_prompts_is_never_seen(form: str) -> None:
    model = make_model()
    rows = [torch.tensor([1, 2, 3, 1, 2, 3, 1, 2]), torch.tensor([4, 5, 4, 5])]
    expected = full_answers(model, rows, 3)
    with torch.no_grad():  # no other id may ever be read, not even to be hidden
        model.token_embeddings.weight[[0, *range(6, VOCAB)]] = torch.nan
    with caching(model, [row[:-3] for row in rows], form) as decoder:
        actual = answers(decoder, [row[-3:] for row in rows])
    assert_close(actual, expected, rtol=0, atol=1e-5)


@every_form
def test_columns_that_hold_nothing_yet_are_never_seen(form: str) -> None:
    model = make_model(num_kv_heads=2)
    rows = [torch.randint(VOCAB, (length,)) for length in (10, 5)]
    with caching(model, [row[:-3] for row in rows], form) as decoder:
        logits = [decoder.start()]
        for buffer in decoder.cache.layers():
            buffer[:, 0, :, 7:] = 1e6
            buffer[:, 1, :, 2:] = 1e6
        logits += map(decoder.step, torch.stack([row[-3:] for row in rows], 1))
    assert_close(torch.stack(logits), full_answers(model, rows, 3), rtol=0, atol=1e-5)


@every_form
def test_a_row_that_is_full_does_not_disturb_the_others(form: str) -> None:
    model = make_model()
    prompts = [torch.randint(VOCAB, (length,)) for length in (CONTEXT - 1, 2)]
    rests = list(torch.randint(VOCAB, (2, 6)))
    with caching(model, prompts, form) as decoder:
        actual = answers(decoder, rests)
    expected = full_answers(model, [torch.cat((prompts[1], rests[1]))], 6)
    assert_close(actual[:, 1:], expected, rtol=0, atol=1e-5)
    assert actual.isfinite().all()


@pytest.mark.parametrize("window", [None, 1, 2, 5])
def test_columns_are_seen_as_a_visibility_says(window: int | None) -> None:
    positions = torch.arange(6)
    seen = visible_columns(torch.arange(6), positions, window)[:, 0, 0]
    assert torch.equal(seen, Visibility(window).mask(6))


# --- which form is taken


@pytest.mark.parametrize("lean", [True, False])
def test_a_step_computes_one_token(monkeypatch: pytest.MonkeyPatch, *, lean: bool) -> None:
    computed: list[int] = []
    hidden, step = TransformerLM.hidden, LeanSteps.__call__

    def count_hidden(model: TransformerLM, ids: Tensor, *given: Any, **named: Any) -> Tensor:
        computed.append(ids.numel())
        return hidden(model, ids, *given, **named)

    def count_lean(steps: LeanSteps, ids: Tensor, reach: Any) -> Tensor:
        computed.append(len(ids))
        return step(steps, ids, reach)

    monkeypatch.setattr(TransformerLM, "hidden", count_hidden)
    monkeypatch.setattr(LeanSteps, "__call__", count_lean)
    model = make_model()
    if not lean:
        monkeypatch.setattr(decoders, "lean_steps_apply", lambda _: False)
    assert len(list(generate(model, torch.arange(4), max_new_tokens=9, seed=0))) == 9
    assert computed == [4, *8 * [1]]


def test_the_choice_of_a_decoder() -> None:
    model, prompts = make_model(), [torch.arange(4)]

    def chosen(steps: int = 5, *, slides: bool = True) -> type:
        decoder = choose_decoder(model, prompts, steps=steps, slides=slides, execution="eager")
        return type(decoder)

    assert chosen() is Caching
    assert chosen(9) is Caching  # the last id is drawn, but not read
    assert chosen(10) is decoders.Sliding
    assert chosen(10, slides=False) is Caching
    with plain_forms():
        assert chosen() is Recomputing
    handle = model.layers[1].register_forward_hook(lambda *_: None)
    assert chosen() is Recomputing
    handle.remove()
    assert chosen() is Caching
    model.ln_final.forward = lambda x: x
    assert chosen() is Recomputing


def test_a_class_of_its_own_is_asked_by_its_own_forward() -> None:
    class Stubborn(TransformerLM):
        def forward(self, ids: Tensor) -> Tensor:
            return nn.init.zeros_(torch.empty(*ids.shape, VOCAB)).index_fill(-1, torch.tensor(7), 1)

    model = Stubborn(make_model().config)
    ids = list(generate(model, torch.arange(3), max_new_tokens=4, temperature=0))
    assert ids == [7, 7, 7, 7]


def test_a_part_that_is_not_ours_is_called() -> None:
    class Doubled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.inner(x)

    model, row = make_model(), torch.randint(VOCAB, (CONTEXT,))
    model.layers[0].attn.q_proj = Doubled(model.layers[0].attn.q_proj)
    assert not lean_steps_apply(model)
    decoder = Caching(model, [row[:3]], capacity=CONTEXT, execution="eager")
    assert_close(answers(decoder, [row[3:]]), full_answers(model, [row], 9), rtol=0, atol=1e-5)


def test_the_weights_of_the_model_are_left_as_they_are() -> None:
    model = make_model(qk_norm="rms")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    list(generate(model, torch.arange(3), max_new_tokens=9, seed=0))
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]), name
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


def test_the_cache_is_no_larger_than_it_must_be() -> None:
    model = make_model(num_kv_heads=2)
    cache = KeyValueCache(model.config, batch=3, capacity=5, like=model.head_weight)
    assert [tuple(buffer.shape) for buffer in cache.layers()] == 2 * [(2, 3, 2, 5, 4)]
    assert not cache.state_dict()
    steps = LeanSteps(model, cache)
    assert steps.head.is_contiguous()


@pytest.mark.parametrize(
    ("capacity", "limit", "expected"), [(1, 1000, 256), (256, 1000, 256), (257, 300, 300)]
)
def test_prompts_of_about_one_length_share_a_compiled_step(
    capacity: int, limit: int, expected: int
) -> None:
    assert reusable_capacity(capacity, limit=limit) == expected


# The compiler and the shape checker do not go together, so this runs in a Python of its own.
COUNT_GRAPHS = """
import torch
from torch._dynamo.testing import CompileCounter
from scratch.nn import TransformerConfig, TransformerLM, generate_batch, _decoders, _steps

graphs = CompileCounter()
compiled_step = _steps.compiled_step
_decoders.compiled_step = lambda *given: compiled_step(*given, backend=graphs)
config = TransformerConfig(
    vocab_size=13, context_length=24, d_model=16, num_layers=1, num_heads=4, d_ff=24,
    num_kv_heads=2, qk_norm="rms", sliding_window=5,
)
torch.manual_seed(0)
for lengths in ((3, 5, 1), (2, 2, 2)):
    model = TransformerLM(config)
    prompts = [torch.randint(13, (length,)) for length in lengths]
    eager, compiled = (
        torch.stack(list(generate_batch(
            model, prompts, max_new_tokens=12, temperature=0.0, execution=execution
        )))
        for execution in ("eager", "compiled")
    )
    assert torch.equal(eager, compiled), (eager, compiled)
    assert graphs.frame_count == 1, graphs.frame_count
"""


def test_all_steps_prompts_and_models_of_a_shape_share_one_compilation() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COUNT_GRAPHS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
