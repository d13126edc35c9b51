"""Continuing many prompts at once, and what happens at the end of the context."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from scratch.nn import (
    TransformerConfig,
    TransformerLM,
    generate,
    generate_batch,
    plain_forms,
    sampling_distribution,
)

VOCAB, CONTEXT = 13, 8
PROMPTS = [torch.tensor(ids) for ids in ([3, 1, 4], [1], [5, 9, 2, 6, 5])]


@pytest.fixture(scope="module")
def model() -> TransformerLM:
    torch.manual_seed(20)
    return make_model()


def make_model(**changes: Any) -> TransformerLM:
    sizes = {"vocab_size": VOCAB, "context_length": CONTEXT, "d_model": 16, "d_ff": 32}
    return TransformerLM(TransformerConfig(**sizes, num_layers=2, num_heads=2, **changes))


def table(
    model: TransformerLM, prompts: Sequence[Tensor] = PROMPTS, **arguments: Any
) -> list[list[int]]:
    """Return what `generate_batch` yields, a list for each row."""
    steps = list(generate_batch(model, prompts, **{"max_new_tokens": 4, **arguments}))
    return torch.stack(steps, 1).tolist() if steps else [[] for _ in prompts]


def alone(model: TransformerLM, prompt: Tensor, **arguments: Any) -> list[int]:
    return list(generate(model, prompt, **{"max_new_tokens": 4, "temperature": 0.0, **arguments}))


# --- each row as if it were alone


@settings(deadline=None, derandomize=True, max_examples=20)
@given(
    lengths=st.lists(st.integers(1, CONTEXT), min_size=1, max_size=4),
    count=st.integers(0, 12),
    window=st.sampled_from([None, 2]),
)
def test_greedy_ids_of_a_row_are_those_of_the_row_alone(
    lengths: list[int], count: int, window: int | None
) -> None:
    model = make_model(sliding_window=window).double()
    prompts = [torch.randint(VOCAB, (length,)) for length in lengths]
    expected = [alone(model, prompt, max_new_tokens=count) for prompt in prompts]
    assert table(model, prompts, max_new_tokens=count, temperature=0.0) == expected


def test_the_plain_form_gives_the_same_ids(model: TransformerLM) -> None:
    arguments: dict[str, Any] = {"max_new_tokens": 12, "seed": 3, "top_k": 9}
    fast, fast_alone = table(model, **arguments), alone(model, PROMPTS[0], **arguments)
    with plain_forms():
        assert table(model, **arguments) == fast
        assert alone(model, PROMPTS[0], **arguments) == fast_alone


def test_a_model_with_hooks_is_asked_for_whole_windows(model: TransformerLM) -> None:
    shapes: list[tuple[int, ...]] = []
    expected = table(model, max_new_tokens=6, temperature=0.0)
    handle = model.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    assert table(model, max_new_tokens=6, temperature=0.0) == expected
    handle.remove()
    assert shapes == [(3, min(length, CONTEXT)) for length in range(5, 11)]


def test_ids_come_as_often_as_their_probability_says(model: TransformerLM) -> None:
    prompt = PROMPTS[0]
    drawn = next(generate_batch(model, 4000 * [prompt], max_new_tokens=1, seed=0, top_p=0.9))
    expected = sampling_distribution(model(prompt)[-1].detach(), top_p=0.9)
    shares = torch.bincount(drawn, minlength=VOCAB) / len(drawn)
    assert_close(shares, expected, rtol=0, atol=0.032)  # four standard errors of a half
    assert ((shares > 0) <= (expected > 0)).all()


@pytest.mark.parametrize(
    "choice", [{"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1}, {"temperature": 1e-9}], ids=str
)
def test_what_leaves_one_token_is_greedy(model: TransformerLM, choice: dict[str, Any]) -> None:
    assert table(model, **choice, seed=1) == table(model, temperature=0.0)


def test_ids_are_whole_numbers_on_the_device_of_the_model(model: TransformerLM) -> None:
    step = next(generate_batch(model, PROMPTS, max_new_tokens=1))
    assert (step.dtype, step.shape) == (torch.int64, (3,))
    assert step.device == model.head_weight.device


# --- the draws


def test_one_seed_gives_the_same_ids_and_another_does_not(model: TransformerLM) -> None:
    first, again, other = (table(model, max_new_tokens=20, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert table(model, max_new_tokens=20) != table(model, max_new_tokens=20)


def test_rows_of_one_prompt_go_different_ways(model: TransformerLM) -> None:
    rows = table(model, 5 * [PROMPTS[0]], max_new_tokens=12, seed=0)
    assert len({tuple(row) for row in rows}) == 5


def test_the_global_random_state_is_neither_read_nor_moved(model: TransformerLM) -> None:
    before = torch.get_rng_state()
    table(model, seed=None)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_callers_grad_mode_holds_and_no_graph_is_built(model: TransformerLM) -> None:
    for step in generate_batch(model, PROMPTS, max_new_tokens=12, seed=0):
        assert torch.is_grad_enabled()
        assert not step.requires_grad
        step.fill_(0)  # is the caller's now
    with torch.no_grad():
        for _ in generate_batch(model, PROMPTS, max_new_tokens=2, seed=0):
            assert not torch.is_grad_enabled()


def test_what_the_caller_does_to_an_id_changes_none_to_come(model: TransformerLM) -> None:
    expected, actual = table(model, seed=0, max_new_tokens=6), []
    for step in generate_batch(model, PROMPTS, seed=0, max_new_tokens=6):
        actual.append(step.tolist())
        step.fill_(0)
    assert [list(row) for row in zip(*actual, strict=True)] == expected


# --- the end


def test_a_row_that_has_stopped_gives_minus_one_and_the_others_go_on(model: TransformerLM) -> None:
    rows = table(model, max_new_tokens=12, seed=4)
    stop = rows[1][3]

    def stopped(row: list[int]) -> list[int]:
        kept = row[: row.index(stop)] if stop in row else row
        return kept + (len(row) - len(kept)) * [-1]

    expected = [stopped(row) for row in rows]
    steps = max(sum(token >= 0 for token in row) for row in expected)
    actual = table(model, max_new_tokens=12, seed=4, stop=stop)
    assert actual == [row[:steps] for row in expected]
    assert -1 in actual[1]


def test_it_ends_when_all_rows_have_stopped(model: TransformerLM) -> None:
    stop = table(model, 2 * [PROMPTS[0]], temperature=0.0)[0][2]
    rows = table(model, 2 * [PROMPTS[0]], temperature=0.0, max_new_tokens=100, stop=stop)
    expected = alone(model, PROMPTS[0], max_new_tokens=100, stop=stop)
    assert rows == 2 * [expected]


def test_nothing_is_computed_before_it_is_asked_for(model: TransformerLM) -> None:
    calls: list[int] = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    steps = generate_batch(model, PROMPTS, max_new_tokens=3)
    assert len(calls) == 0
    next(steps)
    assert len(calls) == 1
    assert table(model, max_new_tokens=0) == [[], [], []]
    assert len(calls) == 1
    handle.remove()


# --- the end of the context


def windows_by_hand(model: TransformerLM, prompt: Tensor, count: int) -> list[int]:
    ids = prompt.tolist()
    for _ in range(count):
        ids.append(int(model(torch.tensor(ids[-CONTEXT:]))[-1].argmax()))
    return ids[len(prompt) :]


def test_sliding_sees_the_latest_ids_only(model: TransformerLM) -> None:
    expected = [windows_by_hand(model, prompt, 14) for prompt in PROMPTS]
    assert table(model, max_new_tokens=14, temperature=0.0) == expected
    assert [alone(model, prompt, max_new_tokens=14) for prompt in PROMPTS] == expected


def test_stopping_ends_with_the_id_of_a_full_window(model: TransformerLM) -> None:
    expected = [windows_by_hand(model, prompt, CONTEXT - len(prompt) + 1) for prompt in PROMPTS]
    arguments: dict[str, Any] = {"max_new_tokens": 14, "overflow": "stop"}
    assert [alone(model, prompt, **arguments) for prompt in PROMPTS] == expected
    padded = [row + (CONTEXT - len(row)) * [-1] for row in expected]
    assert table(model, temperature=0.0, **arguments) == padded
    assert alone(model, PROMPTS[0], max_new_tokens=2, overflow="stop") == expected[0][:2]


def test_overflow_is_refused_at_the_call(model: TransformerLM) -> None:
    assert len(alone(model, PROMPTS[0], max_new_tokens=6, overflow="error")) == 6
    with pytest.raises(
        ValueError, match=r"max_new_tokens must be at most 6 .* 3 ids in prompt\), got 7"
    ):
        generate(model, PROMPTS[0], max_new_tokens=7, overflow="error")
    with pytest.raises(
        ValueError, match=r"at most 4 .* \(a context of 8, 5 ids in prompts\[2\]\), got 5"
    ):
        generate_batch(model, PROMPTS, max_new_tokens=5, overflow="error")


def test_a_long_prompt_is_cropped_if_asked_for(model: TransformerLM) -> None:
    long = torch.randint(VOCAB, (CONTEXT + 5,))
    expected = windows_by_hand(model, long, 4)
    assert alone(model, long, long_prompt="crop") == expected
    assert table(model, [PROMPTS[1], long], long_prompt="crop", temperature=0.0)[1] == expected
    assert alone(model, long, long_prompt="crop", overflow="stop") == expected[:1]
    with pytest.raises(ValueError, match=r"prompts\[1\] must be 1 to 8 ids .* got shape \(13,\)"):
        generate_batch(model, [PROMPTS[1], long], max_new_tokens=1)
    with pytest.raises(ValueError, match=r"prompt must be 1 to 8 ids .* got shape \(0,\)"):
        generate(model, long[:0], max_new_tokens=1, long_prompt="crop")


# --- refusals come at the call


def refused(
    model: TransformerLM, prompts: Sequence[Tensor] = PROMPTS, **arguments: Any
) -> Iterator[Tensor]:
    return generate_batch(model, prompts, **{"max_new_tokens": 1, **arguments})


def test_refuses_no_prompts(model: TransformerLM) -> None:
    with pytest.raises(ValueError, match="prompts must be at least one, got none"):
        refused(model, [])


def test_refuses_a_prompt_outside_of_the_vocabulary(model: TransformerLM) -> None:
    with pytest.raises(ValueError, match=r"prompts\[1\] must be in 0 \.\. 12 .*, got 13"):
        refused(model, [PROMPTS[0], torch.tensor([13])])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_new_tokens", -1, "max_new_tokens must not be negative, got -1"),
        ("temperature", math.nan, "temperature must be .*, got nan"),
        ("top_k", 0, "top_k must be at least 1, got 0"),
        ("top_p", 0, r"top_p must be in \(0, 1\], got 0"),
    ],
)
def test_refuses_what_is_no_way_to_sample(
    model: TransformerLM, name: str, value: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        refused(model, **{name: value})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["overflow", "long_prompt", "execution"])
def test_refuses_a_policy_that_does_not_exist(model: TransformerLM, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be one of \w+, .*, got 'maybe'"):
        refused(model, **{name: "maybe"})
    arguments: dict[str, Any] = {name: "maybe"}
    with pytest.raises(ValueError, match=rf"{name} must be one of \w+, .*, got 'maybe'"):
        generate(model, PROMPTS[0], max_new_tokens=1, **arguments)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_refuses_logits_that_are_no_numbers(temperature: float) -> None:
    model = make_model()
    with torch.no_grad():
        model.layers[1].ffn.w1.weight[3, 3] = torch.nan
    arguments: dict[str, Any] = {"max_new_tokens": 3, "temperature": temperature}
    with pytest.raises(ValueError, match="logits must be numbers, got NaN"):
        next(generate(model, PROMPTS[0], **arguments))
    with pytest.raises(ValueError, match="logits must be numbers, got NaN"):
        next(generate_batch(model, PROMPTS, **arguments))


def test_where_looking_means_waiting_it_looks_every_few_steps(
    model: TransformerLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scratch.nn import _generate

    monkeypatch.setattr(_generate, "_steps_between_looks", lambda _: 4)
    stop = table(model, [PROMPTS[0]], temperature=0.0)[0][1]
    rows = table(model, [PROMPTS[0]], temperature=0.0, max_new_tokens=100, stop=stop)
    kept = alone(model, PROMPTS[0], max_new_tokens=100, stop=stop)
    assert rows == [kept + (3 - len(kept)) * [-1]]


@pytest.mark.usefixtures("unchecked")  # which wants a sequence
def test_prompts_may_be_the_rows_of_a_tensor() -> None:
    model = TransformerLM(
        TransformerConfig(
            vocab_size=13, context_length=8, d_model=8, num_layers=1, num_heads=2, d_ff=8
        )
    )
    rows = torch.randint(13, (2, 3))
    found, expected = (
        [ids.tolist() for ids in generate_batch(model, prompts, max_new_tokens=3, temperature=0.0)]
        for prompts in (rows, list(rows))
    )
    assert found == expected


def test_a_model_with_attention_of_its_own_is_asked_as_it_is() -> None:
    class Echo(torch.nn.Module):
        def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
            return x

    model = TransformerLM(
        TransformerConfig(
            vocab_size=13, context_length=8, d_model=8, num_layers=1, num_heads=2, d_ff=8
        )
    )
    model.layers[0].attn = Echo()
    prompt = torch.tensor([1, 2, 3])
    (found,) = generate(model, prompt, max_new_tokens=1, temperature=0.0)
    assert found == model(prompt)[-1].argmax().item()
