"""The catalogue: every metric, defined once.

N is the number of output tokens per sequence, t_k the arrival of token k on the host and t_0 the moment
the request was sent. Direction, unit and kind are data here and are inferred nowhere.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from pytest_llmperf.demand import decode_bytes, prefill_flops
from pytest_llmperf.model import Measurement, Round, Sample, Trace, Unknown
from pytest_llmperf.rates import (
    CLOCK_STOOD,
    SINGLE_ARRIVAL,
    SINGLE_TOKEN,
    goodput,
    latency,
    output_tokens,
    requests,
    total_tokens,
    tpot,
)
from pytest_llmperf.units import mebibytes, milliseconds

Values = Sequence[float] | Unknown


class Kind(str, Enum):
    """How a metric is compared."""

    TIMED = "timed"
    """Noisy: judged statistically."""
    COUNTED = "counted"
    """Exact: equal or not."""
    MEMORY = "memory"
    """Within a small fixed tolerance."""
    REPORT = "report"
    """May carry a limit; never compared."""


class Better(str, Enum):
    LOWER = "lower"
    HIGHER = "higher"


class Per(str, Enum):
    """What one sample of the metric stands for."""

    REQUEST = "request"
    GAP = "gap"
    ROUND = "round"
    MEASUREMENT = "measurement"


class Least(NamedTuple):
    """The least tolerance of a memory metric, in MiB."""

    cpu: float
    cuda: float


_ROUNDING = Least(cpu=64 / 1024, cuda=2.0)
"""What an allocator's rounding and choice of workspaces may move."""


@dataclass(frozen=True)
class Metric:
    """One entry of the catalogue.

    Args:
        read: the metric's values in `unit`, grouped by round, or why there are none.
        gates: whether it is compared with a baseline without being asked to.
        source: where the definition comes from.
        least: its tolerance is never less, if it is a memory metric.
        by_hardware: though counted, it depends on the hardware and not on the device type alone.
    """

    name: str
    unit: str
    kind: Kind
    per: Per
    definition: str
    source: str
    read: Callable[[Measurement], Sequence[Values] | Unknown]
    better: Better = Better.LOWER
    gates: bool = False
    least: Least = _ROUNDING
    by_hardware: bool = False


def summarize(measurement: Measurement) -> Measurement:
    """The same measurement with every metric of the catalogue computed."""
    samples = {metric.name: _sample(metric.read(measurement)) for metric in CATALOGUE.values()}
    return dataclasses.replace(measurement, samples=samples)


def _sample(by_round: Sequence[Values] | Unknown) -> Sample | Unknown:
    if isinstance(by_round, Unknown):
        return by_round
    known = []
    for values in by_round:
        if isinstance(values, Unknown) and values not in _OF_SINGLE_TOKENS:
            return values
        if not isinstance(values, Unknown):
            known.append(values)
    if known:
        return Sample(known)
    return next((values for values in by_round if isinstance(values, Unknown)), Unknown("no round was taken"))


_OF_SINGLE_TOKENS = (SINGLE_TOKEN, SINGLE_ARRIVAL)
"""What the answers of a single token, in a mix, do not have."""


def _per_request(read: Callable[[Trace], float | Unknown]) -> Callable[[Measurement], list[Values]]:
    def one_round(taken: Round) -> Values:
        values = [read(trace) for trace in taken.traces]
        known = [value for value in values if not isinstance(value, Unknown)]
        unknown = [value for value in values if isinstance(value, Unknown)]
        lacking = [value for value in unknown if not (known and value in _OF_SINGLE_TOKENS)]
        return lacking[0] if lacking else known

    return lambda measurement: [one_round(taken) for taken in measurement.rounds]


def _per_round(read: Callable[[Round], Values]) -> Callable[[Measurement], list[Values]]:
    return lambda measurement: [read(taken) for taken in measurement.rounds]


def _energy(taken: Round) -> Values:
    if isinstance(taken.energy, Unknown):
        return taken.energy
    return [taken.energy / sum(trace.sequences * trace.output_tokens for trace in taken.traces)]


def _once(read: Callable[[Measurement], float | Unknown]) -> Callable[[Measurement], Sequence[Values] | Unknown]:
    def values(measurement: Measurement) -> Sequence[Values] | Unknown:
        value = read(measurement)
        return value if isinstance(value, Unknown) else [[value]]

    return values


def _ms(seconds: float | Unknown) -> float | Unknown:
    return seconds if isinstance(seconds, Unknown) else milliseconds(seconds)


def _mib(count: int | Unknown) -> float | Unknown:
    return count if isinstance(count, Unknown) else mebibytes(count)


def _accepted(trace: Trace) -> float | Unknown:
    """Each step brings the drafts that were accepted, and one token of the model's own."""
    if trace.drafted is None:
        return Unknown("nothing was drafted: the model decodes without assistance")
    if trace.drafted == 0:
        return Unknown("the assistant drafted no token")
    return (trace.output_tokens - len(trace.arrivals)) / trace.drafted


def _itl(taken: Round) -> Values:
    gaps = [milliseconds(gap) for trace in taken.traces for gap in trace.gaps]
    return gaps or SINGLE_ARRIVAL


def _rate(read: Callable[[Round], float | Unknown]) -> Callable[[Round], Values]:
    def values(taken: Round) -> Values:
        rate = read(taken)
        return rate if isinstance(rate, Unknown) else [rate]

    return values


def _goodput(measurement: Measurement) -> list[Values]:
    good = _rate(lambda taken: goodput(taken, measurement.objectives))
    return [good(taken) for taken in measurement.rounds]


def _cost(measurement: Measurement) -> Sequence[Values] | Unknown:
    """At a price per hour, of a million output tokens."""
    price = measurement.price_per_hour
    if isinstance(price, Unknown):
        return price
    spent = price / 3600 * 1e6
    by_round = [output_tokens(taken) for taken in measurement.rounds]
    return [rate if isinstance(rate, Unknown) else [spent / rate] for rate in by_round]


def _failed(measurement: Measurement) -> float | Unknown:
    if not measurement.served:
        return Unknown("only requests to a server fail one by one")
    answered = sum(len(taken.traces) + len(taken.beside) for taken in measurement.rounds)
    failed = len(measurement.failures)
    return failed / (answered + failed)


def _cold_ttft(measurement: Measurement) -> float | Unknown:
    cold = measurement.cold
    return cold if isinstance(cold, Unknown) else milliseconds(cold.ttft)


def _peak(measurement: Measurement) -> float | Unknown:
    return _mib(_plus(measurement.memory.weights, measurement.memory.peak_growth))


def _activations(measurement: Measurement) -> float | Unknown:
    memory = measurement.memory
    if isinstance(memory.kv_cache, Unknown):
        return memory.kv_cache
    return _mib(_plus(memory.peak_growth, -memory.kv_cache))


def _plus(one: int | Unknown, other: int | Unknown) -> int | Unknown:
    if isinstance(one, Unknown):
        return one
    return other if isinstance(other, Unknown) else one + other


def _flops_per_token(measurement: Measurement) -> float | Unknown:
    flops = measurement.counts.decode_work.flops
    return flops if isinstance(flops, Unknown) else flops / measurement.workload.batch_size


def _utilization(
    demand: Callable[[Measurement], float | Unknown],
    seconds: Callable[[Trace], float | Unknown],
    ceiling: Callable[[Measurement], float | Unknown],
) -> Callable[[Measurement], Sequence[Values] | Unknown]:
    """What was needed, by the time it took in each round (the median of its requests), as a share of the ceiling."""

    def values(measurement: Measurement) -> Sequence[Values] | Unknown:
        needed, most = demand(measurement), ceiling(measurement)
        if isinstance(needed, Unknown):
            return needed
        if isinstance(most, Unknown):
            return most
        return [_share(needed / most, [seconds(trace) for trace in taken.traces]) for taken in measurement.rounds]

    return values


def _share(least: float, seconds: Sequence[float | Unknown]) -> Values:
    unknown = next((value for value in seconds if isinstance(value, Unknown)), None)
    if unknown is not None:
        return unknown
    took = statistics.median(value for value in seconds if not isinstance(value, Unknown))
    return [least / took] if took > 0 else CLOCK_STOOD


def _prefill(trace: Trace) -> float:
    return trace.ttft if isinstance(trace.prefill, Unknown) else trace.prefill


_COUNTERS = "torch.profiler, in a pass of its own; steps after the first"
_FLOPS = "torch.utils.flop_counter, with fused attention and grouped experts"
_FIELD = "inference-perf docs/metrics.md"
_MLPERF = "inference-perf reportgen/base.py; MLPerf loadgen/logging.cc"
_MEMORY = "optimum-benchmark: allocated, reserved, process and device are four numbers"

_METRICS = (
    Metric(
        "ttft_ms",
        "ms",
        Kind.TIMED,
        Per.REQUEST,
        "time to first token, t_1 − t_0: queueing, prefill, first token selected and on the host",
        _FIELD,
        _per_request(lambda trace: milliseconds(trace.ttft)),
        gates=True,
    ),
    Metric(
        "tpot_ms",
        "ms",
        Kind.TIMED,
        Per.REQUEST,
        "time per output token, (t_N − t_1)/(N − 1); unknown for N = 1",
        _MLPERF,
        _per_request(lambda trace: _ms(tpot(trace))),
        gates=True,
    ),
    Metric(
        "itl_ms",
        "ms",
        Kind.TIMED,
        Per.GAP,
        "inter-token latency, the single gaps t_k − t_(k−1) for k ≥ 2, pooled over requests",
        "vLLM benchmarks/serve",
        _per_round(_itl),
    ),
    Metric(
        "latency_ms",
        "ms",
        Kind.TIMED,
        Per.REQUEST,
        "t_N − t_0, which is ttft + tpot·(N − 1); ends at the last token",
        _FIELD,
        _per_request(lambda trace: _ms(latency(trace))),
    ),
    Metric(
        "prefill_ms",
        "ms",
        Kind.TIMED,
        Per.REQUEST,
        "the forward pass over the prompt: device time by CUDA events, host time on CPU",
        "optimum-benchmark prefill",
        _per_request(lambda trace: _ms(trace.prefill)),
    ),
    Metric(
        "tokenize_ms",
        "ms",
        Kind.TIMED,
        Per.REQUEST,
        "text → ids; outside ttft and latency",
        "llama-bench README",
        _per_request(lambda trace: _ms(trace.tokenize)),
    ),
    Metric(
        "detokenize_ms",
        "ms",
        Kind.TIMED,
        Per.REQUEST,
        "ids → text after the last token; outside latency",
        "llama-bench README",
        _per_request(lambda trace: _ms(trace.detokenize)),
    ),
    Metric(
        "tokens_per_step",
        "tokens",
        Kind.REPORT,
        Per.REQUEST,
        "output tokens / arrivals: more than 1 where several come at once, as assisted decoding accepts them",
        "vLLM: mean acceptance length",
        _per_request(lambda trace: trace.output_tokens / len(trace.arrivals)),
        Better.HIGHER,
    ),
    Metric(
        "acceptance_rate",
        "share",
        Kind.REPORT,
        Per.REQUEST,
        "of the tokens that assisted decoding drafted, those that the model accepted; unknown without it",
        "vLLM: draft acceptance rate; transformers GenerationMixin._assisted_decoding",
        _per_request(_accepted),
        Better.HIGHER,
    ),
    Metric(
        "output_tokens_per_s",
        "tokens/s",
        Kind.TIMED,
        Per.ROUND,
        "output tokens of all requests / time from the first request sent to the last token",
        _FIELD,
        _per_round(_rate(output_tokens)),
        Better.HIGHER,
    ),
    Metric(
        "total_tokens_per_s",
        "tokens/s",
        Kind.TIMED,
        Per.ROUND,
        "prompt and output tokens of all requests / time from the first request sent to the last token",
        _FIELD,
        _per_round(_rate(total_tokens)),
        Better.HIGHER,
    ),
    Metric(
        "requests_per_s",
        "requests/s",
        Kind.TIMED,
        Per.ROUND,
        "requests answered / time from the first request sent to the last token",
        _FIELD,
        _per_round(_rate(requests)),
        Better.HIGHER,
    ),
    Metric(
        "goodput_per_s",
        "requests/s",
        Kind.TIMED,
        Per.ROUND,
        "requests that met all the test's limits on ttft, tpot, itl and latency / the same time; failed ones met none",
        "AIPerf goodput; DistServe (Zhong et al. 2024)",
        _goodput,
        Better.HIGHER,
    ),
    Metric(
        "failed_share",
        "share",
        Kind.REPORT,
        Per.MEASUREMENT,
        "requests that failed / requests sent, of all rounds; above 0 fails the test unless a limit says otherwise",
        "docs/endpoints.md",
        _once(_failed),
    ),
    Metric(
        "cost_per_million_tokens",
        "price",
        Kind.REPORT,
        Per.ROUND,
        "llmperf_price_per_hour / output tokens of an hour at output_tokens_per_s, for a million of them",
        "docs/endpoints.md",
        _cost,
    ),
    Metric(
        "mbu",
        "share",
        Kind.REPORT,
        Per.ROUND,
        "memory bandwidth used in decode: bytes of weights and cache that a step must read / tpot / bandwidth probed",
        "docs/roofline.md; Databricks, LLM inference performance engineering",
        _utilization(decode_bytes, tpot, lambda measurement: measurement.ceilings.bandwidth),
        Better.HIGHER,
    ),
    Metric(
        "mfu",
        "share",
        Kind.REPORT,
        Per.ROUND,
        "arithmetic used in prefill: FLOPs that it needs / prefill, or ttft where that is unknown / matmul rate probed",
        "docs/roofline.md; PaLM, appendix B",
        _utilization(prefill_flops, _prefill, lambda measurement: measurement.ceilings.flop_rate),
        Better.HIGHER,
    ),
    Metric(
        "load_s",
        "s",
        Kind.REPORT,
        Per.MEASUREMENT,
        "loading the model; unknown where it came from the session's cache",
        "optimum-benchmark load",
        _once(lambda measurement: measurement.load),
    ),
    Metric(
        "cold_ttft_ms",
        "ms",
        Kind.REPORT,
        Per.MEASUREMENT,
        "ttft of the very first request after the load; unknown where it came from the session's cache",
        "llama.cpp #21282",
        _once(_cold_ttft),
    ),
    Metric(
        "peak_memory_mib",
        "MiB",
        Kind.MEMORY,
        Per.MEASUREMENT,
        "weights + (peak of live tensor bytes on the model's device while serving − bytes alive before)",
        _MEMORY,
        _once(_peak),
        gates=True,
    ),
    Metric(
        "weights_mib",
        "MiB",
        Kind.COUNTED,
        Per.MEASUREMENT,
        "parameters and buffers, each storage once",
        _MEMORY,
        _once(lambda measurement: _mib(measurement.memory.weights)),
        gates=True,
    ),
    Metric(
        "kv_cache_mib",
        "MiB",
        Kind.COUNTED,
        Per.MEASUREMENT,
        "tensors of the cache after the last token, each storage once",
        _MEMORY,
        _once(lambda measurement: _mib(measurement.memory.kv_cache)),
        gates=True,
    ),
    Metric(
        "activations_mib",
        "MiB",
        Kind.MEMORY,
        Per.MEASUREMENT,
        "the rest of the peak: peak_memory_mib − weights_mib − kv_cache_mib",
        _MEMORY,
        _once(_activations),
    ),
    Metric(
        "leak_mib",
        "MiB",
        Kind.MEMORY,
        Per.MEASUREMENT,
        "live tensor bytes that one more call leaves behind",
        "difference of live bytes around the second call of the memory pass",
        _once(lambda measurement: _mib(measurement.memory.leaked_per_call)),
        gates=True,
        least=Least(
            cpu=4 / 1024, cuda=2.0
        ),  # on CPU tensors are counted to the byte; buffers of changing size are no leak
    ),
    Metric(
        "flops_per_token",
        "FLOP",
        Kind.COUNTED,
        Per.MEASUREMENT,
        "matrix products, convolutions and attention of decode, mean over its steps and sequences; "
        "a multiply-add is two",
        _FLOPS,
        _once(_flops_per_token),
        gates=True,
    ),
    Metric(
        "prefill_flops",
        "FLOP",
        Kind.COUNTED,
        Per.MEASUREMENT,
        "the same of the whole prefill, all sequences",
        _FLOPS,
        _once(lambda measurement: measurement.counts.prefill_work.flops),
        gates=True,
    ),
    Metric(
        "ops_per_token",
        "operators",
        Kind.COUNTED,
        Per.MEASUREMENT,
        "operators of torch that call no other, per step of decode",
        _COUNTERS,
        _once(lambda measurement: measurement.counts.decode.ops),
        gates=True,
    ),
    Metric(
        "syncs_per_token",
        "waits",
        Kind.COUNTED,
        Per.MEASUREMENT,
        "times the host waits for the device or reads a scalar, per step of decode; `.item()` is one",
        _COUNTERS,
        _once(lambda measurement: measurement.counts.decode.syncs),
        gates=True,
    ),
    Metric(
        "kernels_per_token",
        "launches",
        Kind.COUNTED,
        Per.MEASUREMENT,
        "kernels and graphs launched on the device, per step of decode; CUDA only",
        _COUNTERS,
        _once(lambda measurement: measurement.counts.decode.kernels),
        gates=True,
        by_hardware=True,
    ),
    Metric(
        "kv_bytes_per_token",
        "bytes",
        Kind.COUNTED,
        Per.MEASUREMENT,
        "growth of the cache per token and sequence",
        "difference of the cache after N tokens and after two",
        _once(lambda measurement: measurement.counts.cache_growth),
        gates=True,
    ),
    Metric(
        "compiles",
        "graphs",
        Kind.COUNTED,
        Per.MEASUREMENT,
        "graphs compiled anew, and graph breaks, inside the timed rounds",
        "torch._dynamo.utils.counters",
        _once(lambda measurement: measurement.counts.compiles),
        gates=True,
    ),
    Metric(
        "energy_j_per_token",
        "J",
        Kind.REPORT,
        Per.ROUND,
        "what the GPU took by its own counter / output tokens of all sequences; rounds under 1 s share it",
        "NVML nvmlDeviceGetTotalEnergyConsumption",
        _per_round(_energy),
    ),
    Metric(
        "peak_reserved_mib",
        "MiB",
        Kind.REPORT,
        Per.MEASUREMENT,
        "peak that the device's caching allocator reserved while serving, other cached targets included",
        _MEMORY,
        _once(lambda measurement: _mib(measurement.memory.reserved)),
    ),
    Metric(
        "fragmentation_mib",
        "MiB",
        Kind.REPORT,
        Per.MEASUREMENT,
        "peak that the allocator reserved − peak of its blocks in use: taken, and of no use to any tensor",
        "PyTorch: reserved but unallocated; GMLake (Guo et al. 2024)",
        _once(lambda measurement: _mib(measurement.memory.fragmentation)),
    ),
    Metric(
        "process_gpu_mib",
        "MiB",
        Kind.REPORT,
        Per.MEASUREMENT,
        "GPU memory of this process by NVML, context and libraries included",
        _MEMORY,
        _once(lambda measurement: _mib(measurement.memory.process_gpu)),
    ),
    Metric(
        "device_gpu_mib",
        "MiB",
        Kind.REPORT,
        Per.MEASUREMENT,
        "memory in use on the GPUs that hold the model, by NVML, other processes included",
        _MEMORY,
        _once(lambda measurement: _mib(measurement.memory.device_gpu)),
    ),
    Metric(
        "peak_rss_mib",
        "MiB",
        Kind.REPORT,
        Per.MEASUREMENT,
        "peak resident set of this process while serving, everything loaded included",
        "Linux: /proc/self/clear_refs and VmHWM; elsewhere sampled",
        _once(lambda measurement: _mib(measurement.memory.peak_rss)),
    ),
)

CATALOGUE: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _METRICS})
