"""Generation: what is drawn, from what, how often it asks the model, and what it leaves alone."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from scratch.nn import TransformerConfig, TransformerLM, generate, sampling_distribution

VOCAB, CONTEXT = 13, 6
PROMPT = torch.tensor([3, 1, 4])


@pytest.fixture
def model() -> TransformerLM:
    config = TransformerConfig(
        vocab_size=VOCAB, context_length=CONTEXT, d_model=16, num_layers=1, num_heads=2, d_ff=32
    )
    return TransformerLM(config)


def windows(model: TransformerLM) -> list[list[int]]:
    """Return a list that grows by the ids of each call of the model."""
    seen: list[list[int]] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].tolist()))
    return seen


# --- the distribution of one draw


def keep_by_loop(
    logits: list[float], temperature: float, top_k: int | None, top_p: float, min_p: float
) -> tuple[list[float], float]:
    """Oracle: probabilities by a plain loop, and how near one came to a limit, from either side."""
    weights = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    order = sorted(range(len(logits)), key=lambda token: -weights[token])[:top_k]
    total = sum(weights[token] for token in order)
    kept, mass, margin = [], 0.0, math.inf
    for token in order:
        kept.append(token)
        mass += weights[token] / total
        margin = min(margin, abs(mass - top_p))
        if mass >= top_p < 1:
            break
    shares = [weights[token] / max(weights) for token in kept]
    margin = min(margin, *(abs(share - min_p) for share in shares if share < 1), math.inf)
    kept = [token for token, share in zip(kept, shares, strict=True) if share >= min_p]
    total = sum(weights[token] for token in kept)
    return [weights[t] / total if t in kept else 0.0 for t in range(len(logits))], margin


@settings(deadline=None, derandomize=True, max_examples=500)
@given(
    # Quarters, so that some logits are equal.
    logits=st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=1, max_size=12),
    temperature=st.sampled_from([0.25, 0.5, 1.0, 3.0]),
    top_k=st.none() | st.integers(1, 14),
    top_p=st.floats(0.01, 0.99) | st.just(1.0),
    min_p=st.floats(0.01, 1.0) | st.just(0.0),
)
def test_temperature_then_top_k_then_top_p_then_min_p_as_a_plain_loop_has_it(
    logits: list[float], temperature: float, top_k: int | None, top_p: float, min_p: float
) -> None:
    expected, margin = keep_by_loop(logits, temperature, top_k, top_p, min_p)
    # Whether a sum reaches p is not for rounding to say.
    assume((top_p == 1 and min_p == 0) or margin > 1e-6)
    actual = sampling_distribution(
        torch.tensor(logits, dtype=torch.float64),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
    )
    assert [p > 0 for p in actual.tolist()] == [p > 0 for p in expected]
    assert_close(actual, torch.tensor(expected).double(), rtol=1e-6, atol=0)


@settings(deadline=None, derandomize=True)
@given(
    logits=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=50), top_p=st.floats(0.01, 1)
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits: list[float], top_p: float) -> None:
    full = sampling_distribution(torch.tensor(logits))
    kept = full[sampling_distribution(torch.tensor(logits), top_p=top_p) > 0].double()
    assert len(kept) >= 1
    assert kept.sum() >= top_p - 1e-6  # the rounding of a sum in float32
    assert len(kept) == 1 or kept.sum() - kept.min() < top_p + 1e-6


def test_a_mass_that_reaches_p_exactly_is_enough() -> None:
    halves = torch.tensor([0.25, 0.5, 0.25]).log()
    assert sampling_distribution(halves, top_p=0.5).tolist() == [0, 1, 0]
    assert sampling_distribution(halves, top_p=0.75).count_nonzero() == 2


def test_min_p_keeps_few_where_the_model_is_sure_and_many_where_it_is_not() -> None:
    sure = torch.tensor([0.9, 0.04, 0.03, 0.03]).log()
    unsure = torch.tensor([0.4, 0.3, 0.25, 0.05]).log()
    assert sampling_distribution(sure, min_p=0.2).tolist() == [1, 0, 0, 0]
    assert_close(
        sampling_distribution(torch.stack([sure, unsure]), min_p=0.2)[1],
        torch.tensor([0.4, 0.3, 0.25, 0.0]) / 0.95,
    )


def test_a_share_of_exactly_min_p_is_enough_and_equals_stay_together() -> None:
    assert sampling_distribution(torch.tensor([0.25, 0.5, 0.25]).log(), min_p=0.5).all()
    halves = sampling_distribution(torch.tensor([1.0, 2.0, 2.0, 0.0]), min_p=1.0)
    assert halves.tolist() == [0, 0.5, 0.5, 0]


@pytest.mark.parametrize("top_k", [1, 3, 7, 13, 100])
def test_top_k_keeps_exactly_k_and_the_first_of_equals(top_k: int) -> None:
    kept = min(top_k, 13)
    distribution = sampling_distribution(torch.ones(13), top_k=top_k)
    assert_close(distribution, torch.tensor(kept * [1 / kept] + (13 - kept) * [0.0]))


def test_plain_sampling_is_softmax() -> None:
    logits = torch.randn(2, 3, 13)
    assert_close(sampling_distribution(logits), torch.softmax(logits, -1))
    assert_close(sampling_distribution(logits, temperature=0.5), torch.softmax(2 * logits, -1))


def test_every_row_is_filtered_by_itself() -> None:
    logits = torch.randn(2, 3, 13)
    limits = {"top_k": 5, "top_p": 0.8, "min_p": 0.3}
    together = sampling_distribution(logits, **limits)
    alone = [sampling_distribution(row, **limits) for row in logits.flatten(0, 1)]
    assert torch.equal(together.flatten(0, 1), torch.stack(alone))


def test_temperature_zero_puts_all_on_the_first_of_the_greatest() -> None:
    distribution = sampling_distribution(torch.tensor([1.0, 2, 2, 0]), temperature=0.0)
    assert distribution.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-5, 1e5, 1e38, 1e300])
@pytest.mark.parametrize("size", [1.0, 1e4, 1e38], ids="size {}".format)
def test_extreme_temperatures_and_logits_still_give_a_distribution(
    temperature: float, size: float
) -> None:
    logits = size * torch.tensor([0.5, -1.0, 1.0, -torch.inf])
    distribution = sampling_distribution(logits, temperature=temperature)
    assert distribution.sum().item() == pytest.approx(1)
    assert distribution.argmax().item() == 2 or distribution.max() < 0.34
    assert distribution[3] == 0


def test_low_temperatures_lead_to_the_greatest_and_high_ones_to_chance() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0])
    assert_close(sampling_distribution(logits, temperature=1e-3), torch.tensor([0.0, 1, 0]))
    assert_close(sampling_distribution(logits, temperature=1e6), torch.full((3,), 1 / 3))


def test_the_least_top_p_keeps_the_likeliest() -> None:
    assert sampling_distribution(torch.tensor([1.0, 2.0]), top_p=1e-300).tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_logits_keep_the_tokens_that_float32_keeps(dtype: torch.dtype) -> None:
    logits = torch.zeros(1000, dtype=dtype)
    kept = sampling_distribution(logits, top_p=0.9).count_nonzero().item()
    assert kept == pytest.approx(900, abs=1)  # a sum of 900 rounded thousandths


def test_the_logits_are_left_as_they_are() -> None:
    logits = torch.randn(13)
    before = logits.clone()
    sampling_distribution(logits, temperature=0.5, top_k=3, top_p=0.5)
    assert torch.equal(logits, before)


# --- greedy


def test_temperature_zero_follows_the_greatest_logit(model: TransformerLM) -> None:
    ids = PROMPT.tolist()
    for _ in range(10):
        ids.append(int(model(torch.tensor(ids[-CONTEXT:]))[-1].argmax()))
    assert list(generate(model, PROMPT, max_new_tokens=10, temperature=0.0)) == ids[3:]


def test_top_k_or_min_p_of_one_is_greedy(model: TransformerLM) -> None:
    greedy = list(generate(model, PROMPT, max_new_tokens=10, temperature=0.0))
    assert list(generate(model, PROMPT, max_new_tokens=10, top_k=1, seed=5)) == greedy
    assert list(generate(model, PROMPT, max_new_tokens=10, min_p=1, seed=5)) == greedy


# --- draws


def test_one_seed_gives_the_same_ids_and_another_does_not(model: TransformerLM) -> None:
    first, again, other = (
        list(generate(model, PROMPT, max_new_tokens=20, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_no_seed_draws_anew(model: TransformerLM) -> None:
    first, second = (list(generate(model, PROMPT, max_new_tokens=40)) for _ in range(2))
    assert first != second  # equal by chance once in 10^20 runs or less


def test_ids_come_as_often_as_their_probability_says() -> None:
    config = TransformerConfig(
        vocab_size=5,
        context_length=1,
        d_model=2,
        num_layers=1,
        num_heads=1,
        d_ff=2,
        position="none",
    )
    model = TransformerLM(config)
    with torch.no_grad():  # every token looks the same, so every draw has the same distribution
        model.token_embeddings.weight.copy_(torch.tensor([[1.0, -1.0]]).expand(5, 2))
        probabilities = torch.softmax(model(torch.tensor([0]))[0], 0)
    ids = torch.tensor(list(generate(model, torch.tensor([0]), max_new_tokens=2000, seed=0)))
    shares = torch.bincount(ids, minlength=5) / len(ids)
    assert_close(shares, probabilities, rtol=0, atol=0.05)  # four standard errors of a half


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_global_random_state_is_neither_read_nor_moved(
    model: TransformerLM, seed: int | None, temperature: float
) -> None:
    before = torch.get_rng_state()
    for _ in generate(model, PROMPT, max_new_tokens=5, seed=seed, temperature=temperature):
        pass
    assert torch.equal(torch.get_rng_state(), before)


def test_two_iterators_do_not_disturb_each_other(model: TransformerLM) -> None:
    alone = list(generate(model, PROMPT, max_new_tokens=6, seed=1))
    first, second = (generate(model, PROMPT, max_new_tokens=6, seed=1) for _ in range(2))
    assert list(zip(first, second, strict=True)) == list(zip(alone, alone, strict=True))


# --- the end


def test_the_stop_id_ends_and_is_not_yielded(model: TransformerLM) -> None:
    ids = list(generate(model, PROMPT, max_new_tokens=20, seed=1))
    stop = ids[7]
    stopped = list(generate(model, PROMPT, max_new_tokens=20, seed=1, stop=stop))
    assert stopped == ids[: ids.index(stop)]


def test_a_stop_id_in_the_prompt_stops_nothing(model: TransformerLM) -> None:
    ids = list(generate(model, PROMPT, max_new_tokens=2, temperature=0.0))
    stop = next(token for token in PROMPT.tolist() if token not in ids)
    assert list(generate(model, PROMPT, max_new_tokens=2, temperature=0.0, stop=stop)) == ids


@pytest.mark.parametrize("count", [0, 1, 10])
def test_at_most_max_new_tokens_come(model: TransformerLM, count: int) -> None:
    assert len(list(generate(model, PROMPT, max_new_tokens=count, seed=0))) == count


# --- what the model sees


def test_the_model_is_asked_once_for_each_id_and_not_before(model: TransformerLM) -> None:
    seen = windows(model)
    ids = generate(model, PROMPT, max_new_tokens=5, seed=0)
    assert len(seen) == 0
    next(ids)
    assert len(seen) == 1
    next(ids)
    assert len(seen) == 2


def test_the_window_grows_to_the_context_and_then_slides(model: TransformerLM) -> None:
    seen = windows(model)
    ids = PROMPT.tolist() + list(generate(model, PROMPT, max_new_tokens=8, seed=0))
    assert seen == [ids[:length][-CONTEXT:] for length in range(3, 11)]


def test_a_prompt_may_fill_the_context(model: TransformerLM) -> None:
    assert len(list(generate(model, torch.arange(CONTEXT), max_new_tokens=2, seed=0))) == 2


def test_a_narrow_model_is_asked_in_its_dtype(model: TransformerLM) -> None:
    ids = list(generate(model.bfloat16(), PROMPT, max_new_tokens=8, top_p=0.9, seed=0))
    assert len(ids) == 8


# --- what is left alone


def test_the_callers_grad_mode_holds_between_ids(model: TransformerLM) -> None:
    for _ in generate(model, PROMPT, max_new_tokens=2, seed=0):
        assert torch.is_grad_enabled()
    with torch.no_grad():
        for _ in generate(model, PROMPT, max_new_tokens=2, seed=0):
            assert not torch.is_grad_enabled()


def test_no_graph_is_built(model: TransformerLM) -> None:
    outputs: list[Tensor] = []
    model.register_forward_hook(lambda _, __, output: outputs.append(output))
    next(generate(model, PROMPT, max_new_tokens=1, seed=0))
    assert [output.requires_grad for output in outputs] == [False]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_stays(model: TransformerLM, *, training: bool) -> None:
    model.train(training)
    next(generate(model, PROMPT, max_new_tokens=1, seed=0))
    assert model.training == training


# --- refusals come at the call, before the first id is asked for


def refused(model: TransformerLM, prompt: Tensor = PROMPT, **arguments: Any) -> Iterator[int]:
    return generate(model, prompt, **{"max_new_tokens": 1, **arguments})


@pytest.mark.parametrize("length", [0, CONTEXT + 1])
def test_refuses_a_prompt_that_is_empty_or_longer_than_the_context(
    model: TransformerLM, length: int
) -> None:
    with pytest.raises(ValueError, match=rf"prompt must be 1 to 6 ids .*, got shape \({length},\)"):
        refused(model, torch.zeros(length, dtype=torch.int64))


@pytest.mark.usefixtures("unchecked")
def test_refuses_a_prompt_of_two_axes(model: TransformerLM) -> None:
    with pytest.raises(ValueError, match=r"in one dimension, got shape \(1, 3\)"):
        refused(model, PROMPT[None])


@pytest.mark.parametrize("wrong", [-1, VOCAB])
def test_refuses_a_prompt_outside_of_the_vocabulary(model: TransformerLM, wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"prompt must be in 0 \.\. 12 .*, got {wrong}"):
        refused(model, torch.tensor([0, wrong]))


@pytest.mark.usefixtures("unchecked")
def test_refuses_a_prompt_that_is_no_whole_numbers(model: TransformerLM) -> None:
    with pytest.raises(TypeError, match="prompt must be whole numbers"):
        refused(model, torch.zeros(2))


def test_refuses_a_negative_number_of_ids(model: TransformerLM) -> None:
    with pytest.raises(ValueError, match="max_new_tokens must not be negative, got -1"):
        refused(model, max_new_tokens=-1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["max_new_tokens", "top_k"])
def test_refuses_half_an_id(model: TransformerLM, name: str) -> None:
    with pytest.raises(TypeError, match=name):
        refused(model, **{name: 2.5})


BAD_SAMPLING = [
    ("temperature", -0.1, r"temperature must be .*, got -0\.1"),
    ("temperature", math.nan, "temperature must be .*, got nan"),
    ("temperature", math.inf, "temperature must be .*, got inf"),
    ("top_k", 0, "top_k must be at least 1, got 0"),
    ("top_p", 0.0, r"top_p must be in \(0, 1\], got 0\.0"),
    ("top_p", 1.1, r"top_p must be in \(0, 1\], got 1\.1"),
    ("top_p", math.nan, r"top_p must be in \(0, 1\], got nan"),
    ("min_p", -0.1, r"min_p must be in \[0, 1\], got -0\.1"),
    ("min_p", 1.1, r"min_p must be in \[0, 1\], got 1\.1"),
    ("min_p", math.nan, r"min_p must be in \[0, 1\], got nan"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD_SAMPLING)
def test_refuses_what_is_no_way_to_sample(
    model: TransformerLM, name: str, value: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        refused(model, **{name: value})
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=message):
        sampling_distribution(torch.zeros(5), **arguments)
