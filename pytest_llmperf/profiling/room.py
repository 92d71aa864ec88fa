"""What a model's memory is made of, and how much context or how large a batch there is still room for.

An estimate, from one measurement: the cache grows by what it was seen to grow per token and sequence, and what prefill
needs beside it by the tokens of its prompts. Attention that keeps its scores (`eager`) needs more than that, by the
square of the prompt; a window that is not yet full makes it too cautious.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from pytest_llmperf.demand import cache_after_prefill
from pytest_llmperf.model import Measurement, Unknown, Workload
from pytest_llmperf.targets import Target
from pytest_llmperf.targets.cache import HEADROOM
from pytest_llmperf.targets.device import Device
from pytest_llmperf.units import short_bytes

MOST = 2**40
"""No one asks for a longer context or a larger batch."""


@dataclass(frozen=True)
class MemoryPicture:
    """Bytes of one measurement, and what else would fit.

    Args:
        weights: parameters and buffers.
        kv_cache: after the last token.
        activations: the rest of the peak of live tensors.
        rest: what the process holds beside live tensors: libraries, code, and what allocators keep.
        available: on the device, beside the weights.
        longest_context: prompt and output tokens together that fit at this batch, with as many output tokens.
        largest_batch: that fits at this context.
        positions: of the model, which end every context.
    """

    workload: Workload
    weights: int | Unknown
    kv_cache: int | Unknown
    activations: int | Unknown
    rest: int | Unknown
    available: int | Unknown
    longest_context: int | Unknown
    largest_batch: int | Unknown
    positions: int | None = None


def memory_picture(measurement: Measurement, device: Device, positions: int | None = None) -> MemoryPicture:
    """What the measurement's memory is made of, and what fits beside what the device now holds.

    Args:
        positions: that the model has.
    """
    memory, workload = measurement.memory, measurement.workload
    available = device.available_bytes()
    context, batch = _fitting(measurement, available, positions)
    held = memory.process_gpu if device.name.startswith("cuda") else memory.peak_rss
    activations, rest = (
        _minus(memory.peak_growth, memory.kv_cache),
        _minus(_minus(held, memory.weights), memory.peak_growth),
    )
    return MemoryPicture(
        workload, memory.weights, memory.kv_cache, activations, rest, available, context, batch, positions
    )


def predicted_growth(measurement: Measurement, workload: Workload) -> float | Unknown:
    """Bytes that serving this workload would add to the weights, at its peak: `peak_growth` of another size."""
    growth, filled = measurement.counts.cache_growth, cache_after_prefill(measurement)
    peak = measurement.memory.peak_growth
    if isinstance(growth, Unknown):
        return growth
    if isinstance(filled, Unknown):
        return filled
    if isinstance(peak, Unknown):
        return peak
    measured = measurement.workload
    tokens, then = workload.batch_size * workload.prompt_tokens, measured.batch_size * measured.prompt_tokens
    constant = (filled - growth * then) * workload.batch_size / measured.batch_size  # states, which no token adds to
    beside_prefill = max(0.0, peak - filled) * tokens / then
    after_prefill = growth * workload.batch_size * (workload.output_tokens - 1)
    return constant + growth * tokens + max(beside_prefill, after_prefill)


def _fitting(
    measurement: Measurement, available: int | Unknown, positions: int | None
) -> tuple[int | Unknown, int | Unknown]:
    """The longest context and the largest batch."""
    needed = predicted_growth(measurement, measurement.workload)
    if isinstance(needed, Unknown):
        return needed, needed
    if isinstance(available, Unknown):
        return available, available
    workload = measurement.workload

    def fits(other: Workload) -> bool:
        would_need = predicted_growth(measurement, other)
        return not isinstance(would_need, Unknown) and would_need * HEADROOM <= available

    prompt = _largest(lambda size: fits(dataclasses.replace(workload, prompt_tokens=size)))
    context = prompt + workload.output_tokens if prompt else 0
    batch = _largest(lambda size: fits(dataclasses.replace(workload, batch_size=size)))
    return min(context, positions or context), batch


def _largest(holds: Callable[[int], bool]) -> int:
    """The largest size up to which it holds; 0 where it does for none."""
    if holds(MOST):
        return MOST
    low, high = 0, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _minus(one: int | Unknown, other: int | Unknown) -> int | Unknown:
    if isinstance(one, Unknown):
        return one
    return other if isinstance(other, Unknown) else one - other


def positions_of(target: Target) -> int | None:
    """How many positions a model says that it has."""
    config = getattr(target.model, "config", None)
    text = getattr(config, "get_text_config", lambda: config)()
    most = getattr(text, "max_position_embeddings", None)
    return most if isinstance(most, int) else None


def sentences(picture: MemoryPicture) -> list[str]:
    """The picture in words; nothing of what is unknown."""
    named = {
        "weights": picture.weights,
        "KV cache": picture.kv_cache,
        "activations": picture.activations,
        "everything else of the process": picture.rest,
    }
    parts = [f"{name} {short_bytes(size)}" for name, size in named.items() if not isinstance(size, Unknown)]
    context, batch, workload = picture.longest_context, picture.largest_batch, picture.workload
    at = f"at {workload.prompt_tokens} + {workload.output_tokens} tokens"
    lines = [f"memory {at}: {', '.join(parts)}"] if parts else []
    if not isinstance(context, Unknown):
        lines.append(
            f"at batch {workload.batch_size}, {_contexts(context, picture.positions)}"
            if context
            else f"at batch {workload.batch_size}, no context fits into what is left now"
        )
    if not isinstance(batch, Unknown):
        lines.append(
            f"{at}, batches up to {_about(batch)} fit" if batch else f"{at}, no batch fits into what is left now"
        )
    return lines


def _contexts(context: int, positions: int | None) -> str:
    if context == positions:
        return f"contexts up to the model's {positions:,} positions fit"
    return "contexts of any length fit" if context >= MOST else f"contexts up to {_about(context)} tokens fit"


def _about(count: int) -> str:
    """Two digits: it is an estimate. Rounded down, so that it fits."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return f"{count // unit * unit:,}"
