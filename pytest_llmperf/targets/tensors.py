"""Sizes of what a model holds: storages, each counted once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of this process's storages behind the tensors, each counted once; tensors on `meta` hold none."""
    storages = {}
    for tensor in map(own_part, tensors):
        if tensor.device.type != "meta":
            storage = tensor.untyped_storage()
            storages[(tensor.device, storage.data_ptr())] = storage.nbytes()
    return sum(storages.values())


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """What lies in this process of a tensor that is spread over several: a DTensor has no storage of its own."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def packed_bytes(module: Any) -> int:
    """Bytes of the weights inside of objects that are no tensors, as those of `torch.ao.quantization` are."""
    packed = [part for part in module.modules() if isinstance(vars(part).get("_packed_params"), torch.ScriptObject)]
    return sum(_packed_bytes(part) for part in packed)


def _packed_bytes(part: Any) -> int:
    weight, bias = part._weight_bias()  # copies; that of half the precision is given back as float32
    width = getattr(part, "dtype", weight.dtype).itemsize
    return int(weight.numel() * width + (0 if bias is None else bias.nbytes))


def tensors_in(value: Any, _seen: set[int] | None = None) -> Iterator[torch.Tensor]:
    """Every tensor inside a cache: its attributes, dictionaries and lists, however nested."""
    seen = set() if _seen is None else _seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
        return
    if isinstance(value, Mapping):
        inner: Iterable[Any] = value.values()
    elif isinstance(value, (list, tuple, set)):
        inner = value
    elif hasattr(value, "__dict__") and not isinstance(value, (type, torch.nn.Module)):
        inner = vars(value).values()
    else:
        return
    for item in inner:
        yield from tensors_in(item, seen)
