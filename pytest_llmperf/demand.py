"""What a phase must move and compute at least, from what was counted of it: the numerators of a roofline.

Bytes are those that cannot stay in a cache from step to step: weights, each once however large the batch, and what
the model remembers of its context. Activations are left out: of a step they are a few rows, written and read again at
once (GPT-2 small: 0.1 % of its weights), and in prefill fused kernels need not move them at all.
"""

from __future__ import annotations

import statistics

from pytest_llmperf.model import Measurement, Unknown

_TOO_FEW_STEPS = Unknown("how much of attention is masked is seen from 3 output tokens on")


def decode_bytes(measurement: Measurement) -> float | Unknown:
    """Bytes that a step of decode reads, on average, for the whole batch: weights, and the cache as it is then."""
    weights = measurement.counts.decode_work.weight_bytes
    cache = measurement.memory.kv_cache
    growth = measurement.counts.cache_growth
    if isinstance(weights, Unknown):
        return weights
    if isinstance(cache, Unknown):
        return cache
    if isinstance(growth, Unknown):
        return growth
    workload = measurement.workload
    # The steps are N − 1, and the last finds the cache as it is in the end: the mean one, (N − 2) / 2 tokens less.
    missing = (workload.output_tokens - 2) / 2
    return weights + cache - missing * growth * workload.batch_size


def prefill_bytes(measurement: Measurement) -> float | Unknown:
    """Bytes that prefill moves for the whole batch: weights read, and the cache written."""
    weights = measurement.counts.prefill_work.weight_bytes
    cache = cache_after_prefill(measurement)
    if isinstance(weights, Unknown):
        return weights
    return cache if isinstance(cache, Unknown) else weights + cache


def cache_after_prefill(measurement: Measurement) -> float | Unknown:
    """Bytes of the cache when only the prompt is in it, for the whole batch."""
    workload = measurement.workload
    cache = measurement.memory.kv_cache
    growth = measurement.counts.cache_growth
    if isinstance(cache, Unknown) or workload.output_tokens == 1:
        return cache
    return (
        growth if isinstance(growth, Unknown) else cache - (workload.output_tokens - 1) * growth * workload.batch_size
    )


def prefill_flops(measurement: Measurement) -> float | Unknown:
    """FLOPs that prefill needs for the whole batch.

    Attention is counted in full, but no token needs those after it, and fused kernels leave them out. What a position
    costs is the growth of FLOPs from step to step of decode, which is attention alone.
    """
    flops = measurement.counts.prefill_work.flops
    steps = measurement.counts.flops_by_step
    if isinstance(flops, Unknown):
        return flops
    if len(steps) < 2:
        return _TOO_FEW_STEPS
    position = max(0.0, statistics.linear_regression(range(len(steps)), steps).slope)
    prompt = measurement.workload.prompt_tokens
    return max(flops / 2, flops - position * prompt * (prompt - 1) / 2)  # no mask leaves out more than half
