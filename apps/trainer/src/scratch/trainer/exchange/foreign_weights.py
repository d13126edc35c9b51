"""Weights in safetensors that others wrote: one file, or several with an index, as float32."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

_ONE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_DERIVED = "rotary_emb.inv_freq"  # in files of old: it follows from the config


def read_weights(source: Path) -> dict[str, Tensor]:
    """Return all tensors of a directory by name, narrow ones widened to float32.

    Raises:
        ValueError: if there are none in safetensors, a file of the index is missing or damaged, or
            a tensor is of another dtype or has an infinity or NaN in it.
        OSError: if a file cannot be read.
    """
    weights: dict[str, Tensor] = {}
    for path in _files(source):
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} must be a complete file of safetensors: {error}") from None
        for name, tensor in tensors.items():
            if name.endswith(_DERIVED):
                continue
            if tensor.dtype not in _DTYPES:
                raise ValueError(
                    f"{name} in {path} must be float32, bfloat16 or float16, got {tensor.dtype}"
                )
            if not tensor.isfinite().all():
                raise ValueError(f"{name} in {path} must hold finite numbers only")
            weights[name] = tensor.to(torch.float32)
    return weights


def _files(source: Path) -> list[Path]:
    if (source / _ONE).is_file():
        return [source / _ONE]
    index = source / _INDEX
    if not index.is_file():
        pickled = [*source.glob("*.bin"), *source.glob("*.pt*")]
        hint = f"; {pickled[0].name} may run code when it is read, and is not" if pickled else ""
        raise ValueError(f"{source} must hold {_ONE} or {_INDEX}, got neither{hint}")
    try:
        names = sorted(set(map(str, json.loads(index.read_bytes())["weight_map"].values())))
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{index} must be a JSON object with a weight_map: {error!r}") from None
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"{index} must name files beside it, got {name!r}")
        if not (source / name).is_file():
            raise ValueError(f"{source} must hold the file {name} that {index} names, got none")
    return [source / name for name in names]
