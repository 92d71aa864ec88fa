"""What one measurement is to be: the keywords of marks and of `llm.measure()`, checked and merged.

Levels are merged nearest first: a keyword comes from the nearest level that gives it; limits and
tolerances of a level replace those of levels further out for the same metric and statistic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from pytest_llmperf.errors import UsageError, did_you_mean
from pytest_llmperf.limits import Expression, parse
from pytest_llmperf.mark import KEYWORDS
from pytest_llmperf.mixes import mix_of
from pytest_llmperf.model import Limit, Tolerance, Workload, check_asked
from pytest_llmperf.names import check_gpus, device_name, dtype_name
from pytest_llmperf.options import MOST_THREADS
from pytest_llmperf.targets import LoadOptions, Reference, Stream, resolve
from pytest_llmperf.units import fraction
from pytest_llmperf.workloads import preset

_SIZES = tuple(f.name for f in fields(Workload))


@dataclass(frozen=True)
class Level:
    """The checked content of one mark, or of one call of `measure()`."""

    limits: tuple[Limit, ...] = ()
    tolerances: tuple[Tolerance, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """What one measurement is to be, after all levels were merged. None: the option decides."""

    limits: tuple[Limit, ...] = ()
    tolerances: tuple[Tolerance, ...] = ()
    target: Reference | None = None
    workload: Workload = Workload()
    dtype: str | None = None
    device: str | None = None
    threads: int | str | None = None
    tolerance: float | None = None
    rounds: int | None = None
    load: Mapping[str, Any] = field(default_factory=dict)
    gpus: int | None = None

    @property
    def load_options(self) -> LoadOptions:
        return LoadOptions(self.device or "auto", self.dtype, self.load, self.gpus)


def check(limits: Iterable[object], keywords: Mapping[str, Any]) -> Level:
    """One level, every value of it checked by itself.

    Raises:
        UsageError: naming the value and what was expected, or the nearest known name.
    """
    bounds = [_limit(limit) for limit in limits]
    checked: dict[str, Any] = {}
    for name, value in keywords.items():
        if name == "limits":
            raise UsageError("limits=: write limits as plain arguments, @llm_perf(ttft_ms < 50, …)")
        if name not in KEYWORDS:
            known = did_you_mean(name, KEYWORDS) or f" (known: {', '.join(KEYWORDS)})"
            raise UsageError(f"{name}={value!r}: no such keyword{known}")
        if value is not None:
            checked[name] = _CHECKS[name](value)
    return Level(
        tuple(bound for bound in bounds if isinstance(bound, Limit)),
        tuple(bound for bound in bounds if isinstance(bound, Tolerance)),
        _with_workload_spread(checked),
    )


def merge(levels: Sequence[Level]) -> Settings:
    """One setting of several levels, nearest first.

    Raises:
        UsageError: the levels fit together in no workload, or ask for GPUs of what has none.
    """
    keywords: dict[str, Any] = {}
    limits: list[Limit] = []
    tolerances: list[Tolerance] = []
    for level in levels:
        taken = {(limit.metric, limit.statistic) for limit in limits}
        limits += [limit for limit in level.limits if (limit.metric, limit.statistic) not in taken]
        named = {tolerance.metric for tolerance in tolerances}
        tolerances += [tolerance for tolerance in level.tolerances if tolerance.metric not in named]
        keywords = {**level.keywords, **keywords}
    sizes = {name: keywords.pop(name) for name in _SIZES if name in keywords}
    target = keywords.pop("model", None)
    workload = Workload(**sizes)
    if workload.loads and target is not None and target.in_process:
        name, value = next(iter(workload.loads.items()))
        one, instead = "batch", f"; use batch_size={value}" * (name == "concurrency")
        if isinstance(target, Stream):
            one, instead = "request", ""
        raise UsageError(f"{name}={value!r}: {target.id} runs in this process and serves one {one} at a time{instead}")
    if (gpus := keywords.get("gpus")) is not None:
        check_gpus(gpus, keywords.get("device", "auto"))
        if target is not None and not target.in_process:
            raise UsageError(f"gpus={gpus}: {target.id} is served, on as many GPUs as its server was started with")
    return Settings(tuple(limits), tuple(tolerances), target, workload, **keywords)


def _limit(limit: object) -> Limit | Tolerance:
    if isinstance(limit, str):
        return parse(limit)
    if isinstance(limit, (Limit, Tolerance)):
        return limit
    if isinstance(limit, Expression):
        raise UsageError(f"{limit!r} alone is no limit; compare it with a number, like {limit!r} < 50")
    raise UsageError(f"{limit!r} is no limit: write ttft_ms < 50, or 'ttft_ms < 50' as text")


def _with_workload_spread(keywords: dict[str, Any]) -> dict[str, Any]:
    """`workload=` as the sizes it stands for; a size named beside it wins."""
    whole = keywords.pop("workload", None)
    return keywords if whole is None else {**{name: getattr(whole, name) for name in _SIZES}, **keywords}


def _workload(value: object) -> Workload:
    if isinstance(value, Workload):
        return value
    if isinstance(value, str):
        return preset(value)
    raise UsageError(f"workload={value!r}: expected a Workload(…) or the name of a preset")


def _asked(name: str) -> Callable[[Any], Any]:
    def check_value(value: Any) -> Any:
        check_asked(name, value)
        return value

    return check_value


def _mix(value: Any) -> Any:
    check_asked("mix", value)
    mix_of(value)
    return value


def _tolerance(value: object) -> float:
    try:
        return fraction(value)
    except ValueError as error:
        raise UsageError(f"tolerance={error}") from None


def _whole(name: str) -> Callable[[Any], int]:
    def check_value(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"{name}={value!r}: expected a whole number of at least 1")
        return value

    return check_value


def _threads(value: object) -> int | str:
    if value == "all" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_THREADS):
        return value
    raise UsageError(f"threads={value!r}: expected a whole number from 1 to {MOST_THREADS}, or 'all'")


def _load(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise UsageError(f"load={value!r}: expected a dictionary of keywords for from_pretrained")
    for name, keyword in {"dtype": "dtype", "torch_dtype": "dtype", "device": "device"}.items():
        if name in value:
            raise UsageError(f"load={{{name!r}: …}}: write {keyword}={value[name]!r} beside load=, not inside it")
    return value


_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "model": resolve,
    **{name: _asked(name) for name in _SIZES},
    "mix": _mix,
    "workload": _workload,
    "dtype": dtype_name,
    "device": device_name,
    "gpus": _whole("gpus"),
    "threads": _threads,
    "tolerance": _tolerance,
    "rounds": _whole("rounds"),
    "load": _load,
}
