"""The domain: what was asked, what was seen, what was concluded. Frozen, and silent about itself.

Time is in seconds of one monotonic clock, memory in bytes; only metrics carry other units.
A value that could not be had is an `Unknown` with its reason, never 0 and never a bare None.
"""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NoReturn

from pytest_llmperf.errors import UsageError
from pytest_llmperf.roles import Role, called, check_operator, role_of
from pytest_llmperf.units import milliseconds, percent, short_number

STATISTICS = ("median", "mean", "min", "max", "p50", "p90", "p95", "p99")
TAILS = ("p90", "p95", "p99")
"""Those that need samples of their own to exist."""


def subject(metric: str, statistic: str) -> str:
    """`itl_ms.p99`; the median goes without saying."""
    return metric if statistic == "median" else f"{metric}.{statistic}"


@dataclass(frozen=True)
class Unknown:
    """Stands where a number could not be had."""

    reason: str
    by_chance: bool = False
    """Whether the same code might give it another time."""


@dataclass(frozen=True)
class Workload:
    """What is asked of a target.

    Args:
        prompt_tokens: length of each prompt in tokens; with `prompt` it is what the tokenizer makes of the text.
        output_tokens: tokens generated per sequence, exactly.
        batch_size: sequences generated together, in lockstep.
        concurrency: requests in flight at once; served targets only, as all that follow `prompt`.
        prompt: text to send instead of random token ids, which measures tokenization too.
        request_rate: requests per second, sent when they are due whether or not earlier ones have been answered.
        arrivals: at a rate, how they are spread: `poisson` (unless said) or `constant`.
        requests: whose figures count in a round; None takes as many as the load needs.
        shared_prefix_tokens: with which all prompts begin alike; otherwise they differ from the first token on.
        mix: prompts and answers of different lengths, in the text form of `workloads`: `uniform:32-512,16-128`.

    Raises:
        UsageError: a size that is not a positive whole number, an empty prompt, a load that contradicts itself.
    """

    prompt_tokens: int = 128
    output_tokens: int = 32
    batch_size: int = 1
    concurrency: int = 1
    prompt: str | None = None
    request_rate: float | None = None
    arrivals: str | None = None
    requests: int | None = None
    shared_prefix_tokens: int | None = None
    mix: str | None = None

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            check_asked(f.name, getattr(self, f.name))
        rate, shared = self.request_rate, self.shared_prefix_tokens
        if self.arrivals is not None and rate is None:
            raise UsageError(f"arrivals={self.arrivals!r} needs a request_rate=; at a concurrency, answers pace it")
        if rate is not None and self.concurrency > 1:
            raise UsageError(
                f"request_rate={rate:g} and concurrency={self.concurrency}: at a rate as many are in flight as come; "
                f"name one of them"
            )
        if shared is not None and self.mix is None and shared >= self.prompt_tokens:
            raise UsageError(
                f"shared_prefix_tokens={shared}: expected fewer than prompt_tokens={self.prompt_tokens}, or every "
                f"prompt is the same"
            )
        if self.prompt is not None and (shared is not None or self.mix is not None):
            other = "mix" if self.mix is not None else "shared_prefix_tokens"
            raise UsageError(f"prompt= is the whole prompt of every request: it leaves no room for {other}=")

    @property
    def loads(self) -> Mapping[str, Any]:
        """What it asks beyond one request after the other; only a served target can be asked for it."""
        asked = {name: getattr(self, name) for name in LOADS}
        return {name: value for name, value in asked.items() if value is not None and (name, value) != _ONE_AT_A_TIME}


ARRIVALS = ("poisson", "constant")
LOADS = ("concurrency", "request_rate", "arrivals", "requests", "shared_prefix_tokens", "mix")
"""The keywords of a workload that only served targets take."""
_ONE_AT_A_TIME = ("concurrency", 1)


def check_asked(name: str, value: object) -> None:
    """One field of a workload by itself.

    Raises:
        UsageError: it cannot have this value.
    """
    if value is None and name in _OPTIONAL:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name in ("prompt", "mix"):
        if not isinstance(value, str) or not value:
            raise UsageError(f"{name}={value!r}: expected text of at least one character")
    elif name == "request_rate":
        least, most = _RATES
        if not number or not least <= value <= most:  # type: ignore[operator]  # a number
            raise UsageError(f"request_rate={value!r}: expected requests per second, from {least:g} to {most:,}")
    elif name == "arrivals":
        if value not in ARRIVALS:
            raise UsageError(f"arrivals={value!r}: expected {' or '.join(ARRIVALS)}")
    elif not number or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name}={value!r}: expected a whole number of at least 1")
    elif value > _MOST.get(name, value):
        raise UsageError(f"{name}={value!r}: expected at most {_MOST[name]:,}")


_RATES = (0.001, 100_000)
_MOST: Mapping[str, int] = {
    "concurrency": 16_384,  # a socket each
    "requests": 1_000_000,
}
"""Above these no round would ever end."""
_OPTIONAL = ("prompt", "request_rate", "arrivals", "requests", "shared_prefix_tokens", "mix")


@dataclass(frozen=True)
class Trace:
    """The timestamps of one request. The sequences of a batch move in lockstep and share one trace.

    Args:
        sent: when the token ids were handed to the target.
        arrivals: when each output token, or chunk of tokens, was on the host; ascending.
        prompt_tokens: per sequence.
        counts: tokens in each arrival; empty means one each.
        sequences: sequences that moved together (the batch size).
        prefill: seconds of the forward pass over the prompt, device time where there is a device.
        tokenize: seconds of text → ids, before `sent`.
        detokenize: seconds of ids → text, after the last arrival.
        device_arrivals: on accelerators, when each token was chosen on the device, in seconds after prefill began.
        unsteady: which gaps, counted from 0, came right after a pause and tell of it rather than of the target.
        tokens: generated in all, where it is known though not how many each arrival brought.
        lag: seconds by which the client sent it later than it was due.
        drafted: tokens that assisted decoding proposed; None where nothing did.
    """

    sent: float
    arrivals: tuple[float, ...]
    prompt_tokens: int
    counts: tuple[int, ...] = ()
    sequences: int = 1
    prefill: float | Unknown = Unknown("the target does not show where prefill ends")
    tokenize: float | Unknown = Unknown("the prompt was token ids; prompt= measures tokenization")
    detokenize: float | Unknown = Unknown("the target has no tokenizer")
    device_arrivals: tuple[float, ...] = ()
    unsteady: tuple[int, ...] = ()
    tokens: int | None = None
    lag: float = 0.0
    drafted: int | None = None

    @property
    def output_tokens(self) -> int:
        """Tokens generated per sequence (N)."""
        if self.tokens is not None:
            return self.tokens
        return sum(self.counts) if self.counts else len(self.arrivals)

    @property
    def ttft(self) -> float:
        """Seconds from the request to its first token."""
        return self.arrivals[0] - self.sent

    @property
    def gaps(self) -> tuple[float, ...]:
        """Seconds between consecutive arrivals (k ≥ 2), without the unsteady ones."""
        gaps = (later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False))
        return tuple(gap for index, gap in enumerate(gaps) if index not in self.unsteady)

    @property
    def decode(self) -> float:
        """Seconds from the first to the last token; an unsteady gap counts as its tokens took on the average."""
        if not self.unsteady:
            return self.arrivals[-1] - self.arrivals[0]
        tokens = self.counts[1:] or (1,) * (len(self.arrivals) - 1)
        steady = sum(count for index, count in enumerate(tokens) if index not in self.unsteady)
        return sum(self.gaps) * sum(tokens) / steady

    @property
    def ended(self) -> float:
        """When the last token was on the host."""
        return self.arrivals[0] + self.decode if self.unsteady else self.arrivals[-1]


class Outcome(str, Enum):
    """How a request to a server failed."""

    UNREACHABLE = "no connection"
    TIMED_OUT = "timed out"
    CLOSED = "closed before the end"
    BAD_REQUEST = "bad request"
    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not found"
    RATE_LIMITED = "rate limited"
    SERVER_ERROR = "server error"
    STREAM_ERROR = "error in the stream"
    MALFORMED = "not understood"
    STOPPED_EARLY = "stopped early"
    TOO_LONG = "more tokens than asked for"
    UNCOUNTED = "tokens not counted"
    OTHER_PROMPT = "prompt of another length"


@dataclass(frozen=True)
class Failure:
    """A request that was not answered as it was asked. It has no times: a failed request is not a fast one.

    Args:
        detail: what the server said, in a line.
    """

    outcome: Outcome
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.outcome.value} ({self.detail})" if self.detail else self.outcome.value

    @staticmethod
    def counted(failures: Sequence[Failure]) -> str:
        """`3 × server error (HTTP 500), 1 × timed out`: by outcome, each with what was said first."""
        first = {failure.outcome: failure for failure in reversed(failures)}
        tally = Counter(failure.outcome for failure in failures)
        return ", ".join(f"{count} × {first[outcome]}" for outcome, count in tally.most_common())


@dataclass(frozen=True)
class Round:
    """One execution of the workload: a batch, or all requests of a load.

    Args:
        traces: of the requests that count.
        beside: of those that only kept up the load: before these, and until the last of them was answered.
        failures: of all of them.
        client_lag: seconds by which the client itself was late in nine of ten looks at its own clock.
        held: bytes of live tensors on the model's device after it; on the CPU of the process's resident set.
        energy: joules that the device took.
    """

    traces: tuple[Trace, ...]
    beside: tuple[Trace, ...] = ()
    failures: tuple[Failure, ...] = ()
    client_lag: float = 0.0
    held: int | Unknown = Unknown("nobody looked")
    energy: float | Unknown = Unknown("nobody read an energy counter in this round")

    @property
    def began(self) -> float:
        """When the first request that counts was sent."""
        return min(t.sent for t in self.traces)

    @property
    def wall(self) -> float:
        """Seconds from the first request that counts, when it was sent, to the last token of them."""
        return max(t.ended for t in self.traces) - self.began


_NO_MEMORY_PASS = Unknown("memory was not measured")


@dataclass(frozen=True)
class Memory:
    """What the memory pass saw, in bytes.

    Args:
        weights: parameters and buffers, each storage once.
        kv_cache: tensors of the cache after the last token.
        peak_growth: peak of live tensor bytes on the model's device while serving, less those alive before.
        leaked_per_call: live tensor bytes that a call leaves behind, once caches are filled.
        reserved: peak bytes that the device's allocator took while serving.
        fragmentation: of these, what it had beside the peak of its blocks in use.
        process_gpu: bytes NVML attributes to this process.
        device_gpu: bytes in use on the GPUs that hold the model, by NVML, whosever they are.
        peak_rss: peak resident set of this process while serving.
    """

    weights: int | Unknown = _NO_MEMORY_PASS
    kv_cache: int | Unknown = _NO_MEMORY_PASS
    peak_growth: int | Unknown = _NO_MEMORY_PASS
    leaked_per_call: int | Unknown = _NO_MEMORY_PASS
    reserved: int | Unknown = _NO_MEMORY_PASS
    fragmentation: int | Unknown = _NO_MEMORY_PASS
    process_gpu: int | Unknown = _NO_MEMORY_PASS
    device_gpu: int | Unknown = _NO_MEMORY_PASS
    peak_rss: int | Unknown = _NO_MEMORY_PASS


_NO_COUNTS = Unknown("no counting pass was made", by_chance=True)


@dataclass(frozen=True)
class Operator:
    """One operator of a profile, per step of its phase.

    Args:
        name: as `torch.profiler` has it: `aten::addmm`.
        host: seconds on the host in itself, without the operators that it calls.
        device: seconds of the kernels that it launched.
    """

    name: str
    calls: float
    host: float
    device: float = 0.0

    @property
    def role(self) -> Role:
        """Its part in serving the model: compute, elementwise maths, overhead, or not known."""
        return role_of(self.name)


@dataclass(frozen=True)
class Work:
    """What a phase asks of the device: the whole prefill, or a step of decode on average.

    Args:
        flops: of the whole batch.
        weight_bytes: of weights read, the same ones once in a step.
    """

    flops: float | Unknown = _NO_COUNTS
    weight_bytes: float | Unknown = _NO_COUNTS


@dataclass(frozen=True, repr=False)
class Phase:
    """How a phase was seen by the profiler: the whole prefill, or a step of decode; calls are means, times the least.

    Args:
        ops: operators that call no other.
        syncs: times the host waited for the device, or read a scalar.
        kernels: launched on the device.
        seconds: on the host, while it was profiled: of all its operators, and of what lies between them.
        operators: of these, by name, the longest first.
        steps: that were profiled.
    """

    ops: float | Unknown = _NO_COUNTS
    syncs: float | Unknown = _NO_COUNTS
    kernels: float | Unknown = _NO_COUNTS
    seconds: float | Unknown = _NO_COUNTS
    operators: tuple[Operator, ...] = ()
    steps: int = 0

    def __repr__(self) -> str:  # short: failed assertions show it
        return f"<Phase: {self._in_short}>"

    @property
    def _in_short(self) -> str:
        if isinstance(self.seconds, Unknown):
            return self.seconds.reason
        shares = {row.name: self.share(row) or 0.0 for row in self.operators}
        most = sorted(shares, key=lambda name: shares[name], reverse=True)[:3]
        named = ", ".join(f"{name} {percent(shares[name])}" for name in most)
        return f"{short_number(float(f'{milliseconds(self.seconds):.3g}'))} ms, {named or 'no operators'}"

    @property
    def on_device(self) -> bool:
        """Whether kernels ran: then shares are of their time, else of the host's."""
        return any(row.device for row in self.operators)

    def share(self, of: Operator | Role) -> float | None:
        """What part of the phase's time went to one operator, or to all of one role; None where it was not seen."""
        if isinstance(self.seconds, Unknown) or not self.seconds:
            return None
        rows = [of] if isinstance(of, Operator) else [row for row in self.operators if row.role is of]
        return sum(row.device if self.on_device else row.host for row in rows) / self.seconds

    @property
    def compute(self) -> float | None:
        """Share of products, attention and convolutions."""
        return self.share(Role.COMPUTE)

    @property
    def elementwise(self) -> float | None:
        """Share of light maths: arithmetic, activations, norms, reductions."""
        return self.share(Role.ELEMENTWISE)

    @property
    def overhead(self) -> float | None:
        """Share of operators that move, look up, wait and launch."""
        return self.share(Role.OVERHEAD)

    @property
    def outside(self) -> float | None:
        """Share in which no operator ran: Python on the host, or a device that had nothing to do."""
        shares = [share for role in Role if (share := self.share(role)) is not None]
        return max(0.0, 1 - sum(shares)) if shares else None

    def find(self, name: str) -> Operator | None:
        """The operator of that name, with or without its namespace and the underscores before it; None: not called.

        Raises:
            UsageError: torch has no operator of that name.
        """
        found = [row for row in self.operators if called(row.name, name)]
        if not found:
            check_operator(name)
        return next((row for row in found if row.name == name), found[0] if found else None)


@dataclass(frozen=True)
class Counts:
    """What the counting pass saw: but for times, equal in every run of the same code.

    Args:
        flops_by_step: of decode, one after the other.
        cache_growth: bytes of the cache per token and sequence.
        compiles: graphs compiled, and graph breaks, inside the timed rounds.
    """

    prefill: Phase = Phase()
    decode: Phase = Phase()
    prefill_work: Work = Work()
    decode_work: Work = Work()
    flops_by_step: tuple[int, ...] = ()
    cache_growth: float | Unknown = _NO_COUNTS
    compiles: int | Unknown = _NO_COUNTS


_NOT_PROBED = Unknown("the device was not probed", by_chance=True)


@dataclass(frozen=True)
class Ceilings:
    """What the device reached when it was probed: the best that a model on it can hope for.

    Args:
        bandwidth: bytes per second, out of a working set no larger than what a step of decode reads.
        flop_rate: FLOPs per second of matrix products in the model's dtype.
    """

    bandwidth: float | Unknown = _NOT_PROBED
    flop_rate: float | Unknown = _NOT_PROBED


SERVED = "served"
"""The device type of what is asked over a network."""


@dataclass(frozen=True)
class Environment:
    """The machine and the software a measurement was made on."""

    device: str = "unknown"
    """`cpu`, `cuda:0`, …"""
    device_name: str = "unknown"
    """`NVIDIA H200`, or the processor's name and cores."""
    hardware: str = "unknown"
    """The key under which baselines are kept: `cuda-nvidia-h200-x1`, `cpu-amd-epyc-2c`."""
    dtype: str = "unknown"
    threads: int | None = None
    """CPU threads of torch while measuring."""
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    """What may change on the same hardware: a GPU's power limit."""

    @property
    def device_type(self) -> str:
        """`cpu`, `cuda`, `mps`."""
        return self.device.partition(":")[0]


_NOT_WATCHED = Unknown("nobody watched")
Range = tuple[float, float]
"""The least and the most that was seen."""


@dataclass(frozen=True)
class Gpu:
    """What a GPU did while a measurement was made, as NVML has it.

    Args:
        name: `cuda:0`.
        sm_mhz: clock of its multiprocessors right after rounds.
        memory_mhz: clock of its memory.
        celsius: its temperature.
        slowed: by what its clocks were held down that is no affair of the code.
        capped: whether its power limit held them down, which is where heavy work ends on any GPU.
        foreign: share of the time for which kernels of other processes ran.
        memory_errors: that could not be corrected.
    """

    name: str
    sm_mhz: Range | Unknown = _NOT_WATCHED
    memory_mhz: Range | Unknown = _NOT_WATCHED
    celsius: Range | Unknown = _NOT_WATCHED
    slowed: tuple[str, ...] | Unknown = _NOT_WATCHED
    capped: bool | Unknown = _NOT_WATCHED
    foreign: float | Unknown = _NOT_WATCHED
    memory_errors: int | Unknown = _NOT_WATCHED

    @property
    def disturbance(self) -> str:
        """What others did to it; empty where nothing is known to have."""
        if isinstance(self.slowed, tuple) and self.slowed:
            return f"{self.name} was slowed down by {' and '.join(self.slowed)}"
        if isinstance(self.foreign, float) and self.foreign > SHARED:
            return f"other processes kept {self.name} busy for {percent(self.foreign)} of the time"
        if isinstance(self.memory_errors, int) and self.memory_errors:
            return f"{self.name} had {self.memory_errors} memory errors that could not be corrected"
        return ""


@dataclass(frozen=True)
class Conditions:
    """What the machine did while a measurement was made.

    Args:
        foreign: cores' worth of processor time that other processes took.
        stolen: cores' worth that the hypervisor gave to other machines.
        processors: that the machine shows.
        withheld: cores' worth that this process's container withheld, its quota used up by others, too.
        mhz: of the processors, on the average.
        gpus: those that hold the model.
        again: rounds that do not count, since something disturbed the machine meanwhile, and were taken again.
    """

    foreign: float | Unknown = _NOT_WATCHED
    stolen: float | Unknown = _NOT_WATCHED
    processors: int = 1
    withheld: float | Unknown = _NOT_WATCHED
    mhz: Range | Unknown = _NOT_WATCHED
    gpus: tuple[Gpu, ...] = ()
    again: int = 0

    def disturbance(self, threads: int) -> str:
        """What kept `threads` busy threads from having a core each, and a GPU; empty where nothing is known to have."""
        if isinstance(self.stolen, float) and self.stolen > CONTENDED:
            return f"the hypervisor took {self.stolen:.1f} cores away"
        if isinstance(self.withheld, float) and self.withheld > CONTENDED:
            return f"the container's quota withheld {self.withheld:.1f} cores"
        free = self.processors - min(threads, self.processors)
        if isinstance(self.foreign, float) and self.foreign > free + CONTENDED:
            return f"other processes kept {self.foreign:.1f} of {self.processors} cores busy"
        return next(filter(None, (gpu.disturbance for gpu in self.gpus)), "")


CONTENDED = 0.25
"""Cores' worth of processor time, missing over a whole measurement, from which it counts as disturbed."""
SHARED = 0.05
"""Share of a GPU's time that others had, from which a measurement counts as disturbed."""


class Sample(float):
    """The values of one metric; as a number, their median.

    `by_round` keeps which values came from the same round, since those are not independent.
    """

    __slots__ = ("by_round",)
    by_round: tuple[tuple[float, ...], ...]

    def __new__(cls, by_round: Sequence[Sequence[float]]) -> Sample:
        sample = super().__new__(cls, statistics.median(value for values in by_round for value in values))
        sample.by_round = tuple(tuple(values) for values in by_round)
        return sample

    def __getnewargs__(self) -> tuple[Any]:
        return (self.by_round,)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """In JSON it is its values, by round."""
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(
            cls,
            handler.generate_schema(tuple[tuple[float, ...], ...]),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda sample: sample.by_round),
        )

    @property
    def samples(self) -> tuple[float, ...]:
        return tuple(value for values in self.by_round for value in values)

    @property
    def median(self) -> float:
        return float(self)

    p50 = median

    @property
    def mean(self) -> float:
        return statistics.fmean(self.samples)

    @property
    def min(self) -> float:
        return min(self.samples)

    @property
    def max(self) -> float:
        return max(self.samples)

    @property
    def p90(self) -> float:
        return quantile(self.samples, 0.90)

    @property
    def p95(self) -> float:
        return quantile(self.samples, 0.95)

    @property
    def p99(self) -> float:
        return quantile(self.samples, 0.99)

    def statistic(self, name: str) -> float:
        """The statistic named in `STATISTICS`."""
        return float(getattr(self, name))


def quantile(samples: Sequence[float], q: float) -> float:
    """The q-quantile, linear between order statistics (type 7 of Hyndman & Fan 1996, numpy's default)."""
    ordered = sorted(samples)
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


@dataclass(frozen=True, repr=False)
class Measurement:
    """All rounds of one workload on one target, with memory and environment.

    Answers by metric name: `m.tpot_ms` is a `Sample` (usable as its median), or None where it is
    unknown, and then `m.unknown["tpot_ms"]` says why.
    """

    target: str
    workload: Workload
    rounds: tuple[Round, ...]
    memory: Memory = Memory()
    counts: Counts = Counts()
    ceilings: Ceilings = Ceilings()
    load: float | Unknown = Unknown("the target was not loaded for this measurement")
    cold: Trace | Unknown = Unknown("the target had served requests before")
    environment: Environment = Environment()
    conditions: Conditions = Conditions()
    objectives: tuple[Limit, ...] = ()
    """The test's limits on times of a request, which a request meets or not."""
    price_per_hour: float | Unknown = Unknown("llmperf_price_per_hour is not set")
    notes: tuple[str, ...] = ()
    """What a reader of the figures should know of how they came about."""
    samples: Mapping[str, Sample | Unknown] = field(default_factory=dict)

    def __repr__(self) -> str:  # short: failed assertions show it
        return f"<Measurement of {self.target}, {len(self.rounds)} rounds>"

    def __getattr__(self, name: str) -> Sample | None:
        samples = self.__dict__.get("samples", {})  # not there yet while a copy is being made
        if name not in samples:
            raise AttributeError(f"a Measurement has no {name!r}; its metrics are {', '.join(samples)}")
        value = samples[name]
        return value if isinstance(value, Sample) else None

    @property
    def traces(self) -> tuple[Trace, ...]:
        return tuple(trace for single in self.rounds for trace in single.traces)

    @property
    def failures(self) -> tuple[Failure, ...]:
        return tuple(failure for single in self.rounds for failure in single.failures)

    @property
    def served(self) -> bool:
        """Whether it was asked over a network, where each request may fail by itself."""
        return self.environment.device_type == SERVED

    @property
    def unknown(self) -> Mapping[str, str]:
        """Metric name → why it could not be had."""
        return {name: value.reason for name, value in self.samples.items() if isinstance(value, Unknown)}

    def to_json(self) -> str:
        """Everything seen, as JSON: metrics in their units, rounds in seconds, memory in bytes."""
        record = plain(dataclasses.replace(self, samples={}))
        del record["samples"]
        known = {name: value for name, value in self.samples.items() if isinstance(value, Sample)}
        record["metrics"] = {name: {"median": s.median, "samples": s.samples} for name, s in known.items()}
        record["unknown"] = dict(self.unknown)
        return json.dumps(record)


def plain(value: Any) -> Any:
    """Dataclasses as dictionaries, `Unknown` as null, recursively: what JSON can hold."""
    if isinstance(value, Unknown):
        return None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


@dataclass(frozen=True, repr=False)
class Profile:
    """Which operators ran in each phase of one request, how often, and for how long."""

    target: str
    workload: Workload
    prefill: Phase
    decode: Phase
    unknown: Mapping[str, str] = field(default_factory=dict)
    """Phase → why it was not seen; `trace` → why none was written that was asked for."""

    def __repr__(self) -> str:  # short: failed assertions show it
        return f"<Profile of {self.target}: prefill {self.prefill._in_short}; decode {self.decode._in_short}>"

    @classmethod
    def of(cls, target: str, workload: Workload, prefill: Phase, decode: Phase) -> Profile:
        seen = {"prefill": prefill.seconds, "decode": decode.seconds}
        why = {name: seconds.reason for name, seconds in seen.items() if isinstance(seconds, Unknown)}
        return cls(target, workload, prefill, decode, why)

    def to_json(self) -> str:
        """Both phases, per step: seconds, counts, operators, and shares of the time."""
        record = plain(self)
        record["prefill"].update(split(self.prefill))
        record["decode"].update(split(self.decode))
        return json.dumps(record)

    @classmethod
    def from_plain(cls, record: Mapping[str, Any]) -> Profile:
        unknown = record["unknown"]
        phases = [_phase_from_plain(record[name], unknown.get(name, "")) for name in ("prefill", "decode")]
        return cls(record["target"], Workload(**record["workload"]), phases[0], phases[1], unknown)


def split(phase: Phase) -> dict[str, float | None]:
    """Where the phase's time went, in shares that sum to one: by role of operator, and outside of them."""
    return {**{role.value: phase.share(role) for role in Role}, "outside": phase.outside}


def _phase_from_plain(record: Mapping[str, Any], why: str) -> Phase:
    figures: dict[str, Any] = {name: Unknown(why) if value is None else value for name, value in record.items()}
    figures["operators"] = tuple(Operator(**row) for row in record["operators"])
    return Phase(**figures)


_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Limit:
    """A bound on one statistic of one metric."""

    metric: str
    statistic: str
    operator: str
    bound: float

    def __bool__(self) -> NoReturn:
        raise TypeError(
            f"the limit '{self}' has no truth value: a chained comparison such as 10 < {self.subject} < 50 keeps "
            f"only half of itself, so write two limits, separated by a comma"
        )

    def __str__(self) -> str:
        return f"{self.subject} {self.comparison}"

    @property
    def subject(self) -> str:
        """`itl_ms.p99`; the median goes without saying."""
        return subject(self.metric, self.statistic)

    @property
    def comparison(self) -> str:
        short = f"{self.bound:g}".replace("e+0", "e").replace("e+", "e")
        whole = repr(self.bound).removesuffix(".0")
        return f"{self.operator} {short if abs(self.bound) >= 1e6 and float(short) == self.bound else whole}"

    def holds(self, value: float) -> bool:
        return _OPERATORS[self.operator](value, self.bound)


@dataclass(frozen=True)
class Tolerance:
    """How much worse than its baseline a metric may be, as a fraction; makes it gate."""

    metric: str
    fraction: float
