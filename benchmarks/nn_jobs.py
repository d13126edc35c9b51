"""One program of `bench_nn.py` in a process of its own, warm and waiting for its turn.

`python nn_jobs.py ORDER` makes ready what the JSON `ORDER` describes and prints, as a line of JSON,
answers by which programs can be told to do the same. Then, for every number of seconds read from
stdin, it works that long and prints how long one run took (the median) and the peak of memory.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from nn_work import ADAMW, Order, Work, measure, our_model, peak_megabytes, seeded, some
from torch import Tensor, nn


def main() -> None:
    """Get ready, then work whenever told to."""
    # What libraries print is not an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    order = Order(**json.loads(sys.argv[1]))
    torch.set_num_threads(order.threads)
    if order.gemm == "onednn":
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    work = JOBS[order.job](order)
    print(json.dumps({"answers": work.answers, "tokens": work.tokens}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(work, float(line))), file=answers, flush=True)


def step(order: Order) -> Work:
    """A training step."""
    from nn_training import step

    return step(order)


def loss(order: Order) -> Work:
    """Loss and gradients of hidden states and weight, from one size of memory to the next."""
    shape = order.shape

    def data(tokens: int, vocab_size: int) -> tuple[Tensor, Tensor, Tensor]:
        d_model, generator = shape["d_model"], seeded(0)
        hidden = torch.empty(tokens, d_model).normal_(generator=generator)
        weight = torch.empty(vocab_size, d_model).normal_(std=d_model**-0.5, generator=generator)
        targets = torch.randint(vocab_size, (tokens,), generator=generator)
        return hidden.requires_grad_(), weight.requires_grad_(), targets

    def once(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        hidden.grad = weight.grad = None
        if order.program == "scratch":
            from scratch.nn import linear_cross_entropy

            value = linear_cross_entropy(hidden, weight, targets)
        else:
            value = nn.functional.cross_entropy(hidden @ weight.T, targets)
        value.backward()
        return value

    once(*data(64, 128))  # the libraries are in memory now
    hidden, weight, targets = data(shape["tokens"], shape["vocab_size"])
    torch.ones_like(weight)  # a gradient has to be somewhere
    before = peak_megabytes()
    value = once(hidden, weight, targets)
    assert hidden.grad is not None
    assert weight.grad is not None
    answers = {
        "loss": [value.item()],
        "gradient of hidden": some(hidden.grad),
        "gradient of weight": some(weight.grad[targets[:16]]),
    }

    def growth() -> float | None:
        now = peak_megabytes()
        return None if before is None or now is None else round(now - before, 1)

    return Work(lambda: once(hidden, weight, targets), answers, peak_mb=growth)


def adamw(order: Order) -> Work:
    """A step of AdamW over the parameters of the model."""
    parameters = list(our_model(order.shape).parameters())
    if order.program == "scratch":
        from scratch.optim import AdamW

        optimizer: Any = AdamW(parameters, **ADAMW, form=order.mode)
    else:
        optimizer = torch.optim.AdamW(parameters, **ADAMW, fused=True)
    before = [p.detach().clone() for p in parameters]
    for seed in range(3):
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter).normal_(generator=seeded(seed))
        optimizer.step()
    moved = torch.cat([(p - old).flatten()[:64] for p, old in zip(parameters, before, strict=True)])
    return Work(optimizer.step, {"update": some(moved)})


def muon(order: Order) -> Work:
    """A step of Muon over the hidden matrices of a plain GPT."""
    d_model, d_ff = order.shape["d_model"], order.shape["d_ff"]
    shapes = [(d_model, d_model)] * 4 + [(d_ff, d_model), (d_model, d_ff)]
    # From zero, so that the matrices are the update, whatever decay is.
    parameters = [nn.Parameter(torch.zeros(s)) for s in shapes * order.shape["num_layers"]]
    for seed, parameter in enumerate(parameters):
        parameter.grad = torch.empty_like(parameter).normal_(generator=seeded(seed))
    if order.program == "scratch":
        from scratch.optim import Muon
    else:
        from torch.optim import Muon
    optimizer = Muon(parameters, 0.02)
    optimizer.step()
    # Of length one: how an update is scaled by its shape is a matter of taste.
    directions = [p / p.norm() for p in parameters[3:6]]
    names = ("square", "tall", "wide")
    return Work(optimizer.step, dict(zip(names, map(some, directions), strict=True)))


def generate(order: Order) -> Work:
    """Continue prompts by the likeliest token."""
    shape = order.shape
    count, batch = shape["new_tokens"], shape["batch"]
    model = our_model(shape).eval()
    prompts = torch.randint(shape["vocab_size"], (batch, shape["prompt"]), generator=seeded(1))
    options = {"max_new_tokens": count, "temperature": 0.0, "execution": order.mode}
    if order.program == "transformers":
        from nn_peers import llama
        from transformers import GenerationConfig

        peer = llama(model).eval()
        # Set on the model, as what is missing in an argument would come from there.
        peer.generation_config = GenerationConfig(
            max_new_tokens=count, do_sample=False, pad_token_id=0
        )

        def run() -> Tensor:
            mask = torch.ones_like(prompts)
            return peer.generate(prompts, attention_mask=mask)[:, shape["prompt"] :]

    elif order.program == "no cache":

        @torch.inference_mode()
        def run() -> Tensor:
            ids = prompts
            for _ in range(count):
                window = ids[:, -shape["context_length"] :]
                ids = torch.cat((ids, model(window)[:, -1].argmax(-1, keepdim=True)), -1)
            return ids[:, shape["prompt"] :]

    elif batch == 1:
        from scratch.nn import generate

        def run() -> Tensor:
            return torch.tensor([list(generate(model, prompts[0], **options))])

    else:
        from scratch.nn import generate_batch

        def run() -> Tensor:
            return torch.stack(list(generate_batch(model, list(prompts), **options)), -1)

    ids = run()
    assert ids.shape == (batch, count), ids.shape
    return Work(run, {"ids": ids.tolist()}, tokens=batch * count)


JOBS: dict[str, Callable[[Order], Work]] = {
    "step": step,
    "loss": loss,
    "adamw": adamw,
    "muon": muon,
    "generate": generate,
}


if __name__ == "__main__":
    main()
