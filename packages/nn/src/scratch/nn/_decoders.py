"""Decoders: what stands between a model and the loop that draws one id after another.

The plain form asks the model for the whole window again at each step. The form with a cache keeps
keys and values (see `_cache`) and gives the same logits to rounding.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._cache import KeyValueCache, Reach, ReadPrompt, visible_columns
from ._forms import plain_forms_wanted
from ._lean import LeanSteps, lean_steps_apply
from ._self_attention import MultiHeadSelfAttention
from ._steps import compiled_step, reusable_capacity, step_of_modules
from ._transformer import TransformerLM

Execution = Literal["eager", "compiled"]


@runtime_checkable
class Decoder(Protocol):
    """Answers with the logits of the next id in each row."""

    def start(self) -> Float[Tensor, "batch vocab"]:
        """Read the prompts."""
        ...

    def step(self, ids: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        """Read one more id in each row."""
        ...


def choose_decoder(
    model: TransformerLM,
    prompts: Sequence[Int[Tensor, " _"]],
    *,
    steps: int,
    slides: bool,
    execution: Execution,
) -> Decoder:
    """Return the decoder for `steps` steps, the first of which reads the `prompts`.

    A model that is watched or changed by hooks, or is of a class of its own, is asked as it is, by
    the plain form, and so is every model within `plain_forms`.
    """
    if plain_forms_wanted() or not _is_as_built(model):
        return Recomputing(model, prompts)
    longest, context = max(map(len, prompts)), model.config.context_length
    capacity = min(longest + steps - 1, context)
    decoder = Caching(model, prompts, capacity=capacity, execution=execution)
    overflows = longest + steps - 1 > context
    return Sliding(model, prompts, decoder) if slides and overflows else decoder


class Recomputing:
    """The plain form: each step reads the latest `context_length` ids of each row anew."""

    def __init__(self, model: TransformerLM, prompts: Sequence[Int[Tensor, " _"]]) -> None:
        self.model, self.rows = model, list(prompts)

    @torch.no_grad()
    def start(self) -> Float[Tensor, "batch vocab"]:
        if len(self.rows) == 1:
            return self.model(self.rows[0])[-1:]
        ids, last = side_by_side(self.rows)
        return self.model(ids)[torch.arange(len(ids), device=ids.device), last]

    def step(self, ids: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        longer = (torch.cat(pair) for pair in zip(self.rows, ids[:, None], strict=True))
        self.rows = [row[-self.model.config.context_length :] for row in longer]
        return self.start()


class Sliding:
    """A decoder with a cache until a row fills the context, and the plain form from there.

    Once a window slides, every token in it stands at another position than before, and nothing
    that was kept for it is of use.
    """

    def __init__(
        self, model: TransformerLM, prompts: Sequence[Int[Tensor, " _"]], decoder: Decoder
    ) -> None:
        self.model, self.prompts, self.decoder = model, prompts, decoder
        self.room = model.config.context_length - max(map(len, prompts))
        self.drawn: list[Int[Tensor, " batch"]] = []

    def start(self) -> Float[Tensor, "batch vocab"]:
        return self.decoder.start()

    def step(self, ids: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        if self.room == 0:
            rows = [
                torch.cat((prompt, *(drawn[row, None] for drawn in self.drawn)))
                for row, prompt in enumerate(self.prompts)
            ]
            self.decoder = Recomputing(self.model, rows)
        elif self.room > 0:
            self.drawn.append(ids)
        self.room -= 1
        return self.decoder.step(ids)


class Caching:
    """The form with a cache: a step reads one id in each row, and what was kept of the others.

    Rows that are full stay where they are; what is said of them from there on means nothing.
    """

    def __init__(
        self,
        model: TransformerLM,
        prompts: Sequence[Int[Tensor, " _"]],
        *,
        capacity: int,
        execution: Execution,
    ) -> None:
        self.model, self.execution = model, execution
        self.capacity = capacity
        if execution == "compiled":
            self.capacity = reusable_capacity(capacity, limit=model.config.context_length)
        self.ids, self.last = side_by_side(prompts)
        self.longest = self.ids.shape[1]
        self.ragged = min(map(len, prompts)) < self.longest
        self.lean: LeanSteps | None = None
        self.cache = KeyValueCache(
            model.config, batch=len(prompts), capacity=self.capacity, like=model.head_weight
        )

    @torch.no_grad()
    def start(self) -> Float[Tensor, "batch vocab"]:
        window = self.model.config.sliding_window
        attend = [
            ReadPrompt(buffer, layer.attn.backend, window)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue, reportUnknownMemberType]
            for layer, buffer in zip(self.model.layers, self.cache.layers(), strict=True)
        ]
        hidden = self.model.hidden(self.ids, attend=attend)
        return self.model.head(hidden[self.cache.rows, self.last])

    @torch.no_grad()
    def step(self, ids: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        self.last = (self.last + 1).clamp_(max=self.capacity - 1)
        self.longest = min(self.longest + 1, self.capacity)
        if self.execution == "compiled":
            step = compiled_step(self.model.config, self.cache)
            return step(self.model, self.cache, ids, self.last)
        reach = self._reach()
        if self.lean is None and lean_steps_apply(self.model):
            self.lean = LeanSteps(self.model, self.cache)
        if self.lean is not None:
            return self.lean(ids, reach)
        return step_of_modules(self.model, self.cache, ids, reach)

    def _reach(self) -> Reach:
        """Return what is filled, with a mask if some rows see less than others."""
        window = self.model.config.sliding_window
        if self.ragged:
            mask = visible_columns(self.cache.columns[: self.longest], self.last, window)
            return Reach(self.last, slice(self.longest), mask)
        first = 0 if window is None else max(0, self.longest - window)
        return Reach(self.last, slice(first, self.longest), None)


def side_by_side(
    rows: Sequence[Int[Tensor, " _"]],
) -> tuple[Int[Tensor, "batch longest"], Int[Tensor, " batch"]]:
    """Return `rows` as one tensor, and where each of them ends.

    Shorter ones are filled up with their last id. What comes after a token is nothing to it, so
    the filling is never seen; and it brings no number that the row has not brought itself.
    """
    longest = max(map(len, rows))
    filled = [torch.cat((row, row[-1:].expand(longest - len(row)))) for row in rows]
    return torch.stack(filled), torch.tensor([len(row) - 1 for row in rows], device=rows[0].device)


def _is_as_built(model: TransformerLM) -> bool:
    """Return whether the parts of `model` may be called one by one, and nobody would know."""
    if type(model) is not TransformerLM:
        return False
    parts: list[Any] = list(model.layers)
    if not all(isinstance(getattr(part, "attn", None), MultiHeadSelfAttention) for part in parts):
        return False
    modules: list[Any] = list(model.modules())
    return not any(
        module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
        for module in modules
    )
