"""Where the memory went, for the message of a target that ran out of it: a few short lines, a fact each."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_llmperf import nvml
from pytest_llmperf.model import Unknown, Workload
from pytest_llmperf.targets.device import Cuda, Device
from pytest_llmperf.targets.protocol import Target
from pytest_llmperf.units import short_bytes

_ASKED_FOR = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)
_WIDTH = 78
_MOST_PROCESSES = 5


def of_device(device: Device, error: BaseException | None = None) -> Iterator[str]:
    """What each of its places holds, what one allocation more was to take, and what other processes hold there.

    Args:
        error: of the allocator, as it was raised.
    """
    try:
        rooms = device.rooms()
    except RuntimeError as another:  # as where CUDA's own context has no room: it must not take the first one's place
        rooms = ()
        yield f"{device.name}: unknown, {str(another).partition(chr(10))[0]}"
    for room in rooms:
        own = ", ".join(f"{short_bytes(size)} {what}" for what, size in room.own.items())
        yield f"{room.name}: {short_bytes(room.free)} of {short_bytes(room.total)} free; own: {own}"
    if asked := _ASKED_FOR.search(str(error)):
        yield f"what failed: an allocation of {asked[1]}"
    if isinstance(device, Cuda):
        others = nvml.other_processes(device.names)
        if isinstance(others, Unknown):
            yield f"other processes: unknown, {others.reason}"
        elif others:
            most = sorted(others, key=lambda pid: others[pid], reverse=True)[:_MOST_PROCESSES]
            yield f"other processes: {', '.join(f'pid {pid} {short_bytes(others[pid])}' for pid in most)}"


def of_target(target: Target, workload: Workload) -> Iterator[str]:
    """Its weights, and what its cache would take at most for this workload."""
    weights, cache = target.weights_bytes(), _largest_cache(target, workload)
    if not isinstance(weights, Unknown):
        yield f"weights: {short_bytes(weights)}"
    if cache is not None:
        tokens = workload.prompt_tokens + workload.output_tokens
        yield f"cache of {workload.batch_size} × {tokens} tokens: up to {short_bytes(cache)}"


def of_others(gave_way: Mapping[str, int | Unknown]) -> Iterator[str]:
    """The targets that gave way before it."""
    if gave_way:
        named = [
            name if isinstance(size, Unknown) else f"{name} ({short_bytes(size)})" for name, size in gave_way.items()
        ]
        yield f"gave way before: {', '.join(named)}"


def told(message: object, *facts: Iterator[str]) -> str:
    """The message, and below it the facts, indented and folded for a narrow terminal."""
    lines = [
        textwrap.fill(
            fact,
            _WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for group in facts
        for fact in group
    ]
    return "\n".join([str(message), *lines])


def _largest_cache(target: Target, workload: Workload) -> int | None:
    """Keys and values of all tokens in all layers; windows, states and latent keys take less. None: no such model."""
    import torch

    config: Any = getattr(target.model, "config", None)
    text = getattr(config, "get_text_config", lambda: config)()
    heads, layers = getattr(text, "num_attention_heads", None), getattr(text, "num_hidden_layers", None)
    width, dtype = getattr(text, "hidden_size", None), getattr(torch, target.dtype, None)
    if not (heads and layers and width and isinstance(dtype, torch.dtype)) or workload.prompt is not None:
        return None
    kept = getattr(text, "num_key_value_heads", None) or heads
    if not all(isinstance(number, int) for number in (heads, layers, width, kept)):  # some list them by layer
        return None
    of_head = getattr(text, "head_dim", None) or width // heads
    tokens = workload.batch_size * (workload.prompt_tokens + workload.output_tokens)
    return int(2 * layers * kept * of_head * dtype.itemsize * tokens)
