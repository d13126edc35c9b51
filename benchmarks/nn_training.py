"""A training step of `bench_nn.py`: ours, that of `transformers`, or that of a GPT of torch.nn."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from nn_peers import builtin_gpt, llama
from nn_work import ADAMW, Order, Work, our_config, our_model, seeded
from torch import Tensor, nn

from scratch.nn import fast_matmul, flops_per_token, mfu
from scratch.optim import AdamW, clip_grad_norm
from scratch.trainer.process import keep_freed_memory

STEPS_OF_A_RUN = {"cpu": 1, "cuda": 10}  # between two looks at an accelerator's clock


def step(order: Order) -> Work:
    """zero_grad, forward, loss, backward, clip to norm 1, AdamW."""
    parameters, loss, clip, optimizer = training(order)
    shape, device = order.shape, order.device
    size = (4, shape["batch"], shape["context_length"] + 1)
    text = torch.randint(shape["vocab_size"], size, generator=seeded(1)).to(device)
    ids, targets = text[..., :-1].contiguous(), text[..., 1:].contiguous()
    fast = nullcontext
    if order.gemm == "shipped":  # as the application `trainer` runs it
        keep_freed_memory()
        fast = fast_matmul
    narrow = order.precision == "autocast"
    count = 0

    def one_step() -> Tensor:
        nonlocal count
        turn, count = count % len(ids), count + 1
        with fast():
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=narrow):
                value = loss(ids[turn], targets[turn])
            value.backward()
            clip(parameters, 1.0)
            optimizer.step()
        return value

    def run() -> None:
        for _ in range(STEPS_OF_A_RUN[device]):
            one_step()
        if device == "cuda":
            torch.cuda.synchronize()

    losses = [one_step().item() for _ in range(3)]
    tokens = shape["batch"] * shape["context_length"] * STEPS_OF_A_RUN[device]
    work = Work(run, {"losses of three steps": losses}, tokens)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        work.peak_mb = lambda: round(torch.cuda.max_memory_allocated() / 2**20, 1)
        work.facts = {"device": torch.cuda.get_device_name()}
    if order.precision != "float32":
        work.utilization = lambda speed: utilization(order, speed)
    return work


def training(
    order: Order,
) -> tuple[list[nn.Parameter], Callable[..., Tensor], Callable[..., Any], Any]:
    """Return parameters, loss of ids and targets, clipping and optimizer of a program."""
    model = our_model(order.shape)
    compiled = order.mode == "compiled"
    dtype = torch.bfloat16 if order.precision == "bf16" else torch.float32
    if order.program == "scratch":
        model.to(order.device, dtype)
        form = {"form": "compiled"} if compiled else {}
        parameters = list(model.parameters())
        loss = torch.compile(model.loss) if compiled else model.loss
        return parameters, loss, clip_grad_norm, AdamW(parameters, **ADAMW, **form)

    is_llama = order.program == "transformers"
    peer = (llama if is_llama else builtin_gpt)(model).to(order.device, dtype).train()
    call = torch.compile(peer) if compiled else peer

    def llama_loss(ids: Tensor, targets: Tensor) -> Tensor:
        return call(input_ids=ids, labels=targets, shift_labels=targets, use_cache=False).loss

    parameters = list(peer.parameters())
    optimizer = torch.optim.AdamW(parameters, **ADAMW, fused=True)
    return parameters, llama_loss if is_llama else call, nn.utils.clip_grad_norm_, optimizer


def utilization(order: Order, tokens_per_second: float) -> dict[str, float]:
    """Return the share of the peak that the multiplications of the model make, where it is known.

    One convention for all programs: `6 N_matmul + 12 L d T` operations a token.
    """
    flops = flops_per_token(our_config(order.shape), seq=order.shape["context_length"])
    share = mfu(tokens_per_second, flops, order.device)
    return {} if share is None else {"mfu": round(share, 4)}
