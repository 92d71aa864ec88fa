"""The course of one test: measure → judge → record. Knows no pytest."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_llmperf import metrics, ranks
from pytest_llmperf.baselines.environment import environment_of
from pytest_llmperf.errors import NoRoomError, OutOfMemoryTargetError, UsageError, forget_frames
from pytest_llmperf.measure import Effort, Need, alone, measure, profile_of, with_room
from pytest_llmperf.measure.conditions import Watch, watching
from pytest_llmperf.model import Environment, Limit, Measurement, Profile, Round, Sample, Tolerance, Unknown
from pytest_llmperf.options import choose
from pytest_llmperf.profiling.traces import trace_file, untraced
from pytest_llmperf.rates import is_objective
from pytest_llmperf.results import Result, Verdict
from pytest_llmperf.scaling import SIZES, Scaling, sizes_of
from pytest_llmperf.settings import Level, Settings, check, merge
from pytest_llmperf.targets import LoadOptions, Reference, Served, Target, resolve, shortage
from pytest_llmperf.targets.cache import TargetCache
from pytest_llmperf.targets.device import device_of
from pytest_llmperf.verdict.rule import straddles
from pytest_llmperf.verdict.statistics import interval, supported

if TYPE_CHECKING:  # what these bring along is for those who measure, not for those who name a type
    from pytest_llmperf.against import Against, Measured
    from pytest_llmperf.duet.sides import Line
    from pytest_llmperf.gate import Evidence, Gate
    from pytest_llmperf.settle import Fresh

PRECISION = 0.02
"""Rounds go on until the 95 % interval of each gating timed metric is this narrow, as ± share of its median."""


@dataclass(frozen=True)
class Defaults:
    """What options say where marks do not."""

    device: str = "auto"
    dtype: str | None = None
    threads: int | str = 1
    rounds: int | None = None
    max_time: float = 10.0
    smoke: bool = False
    profile: str = "never"
    """Whose operators are shown: those of `always` all, of tests that break a limit (`on-failure`), of `never` one."""
    traces: Path | None = None
    """Where a Chrome trace of each measurement goes."""
    price_per_hour: float | Unknown = Measurement.price_per_hour


@dataclass
class Session:
    """What measurements of one run share: option values, loaded targets, and who is told of progress."""

    defaults: Defaults = field(default_factory=Defaults)
    progress: Callable[[str], None] = lambda stage: None
    exclusive: Callable[[str], AbstractContextManager[object]] = nullcontext
    """Entered for each measurement with the device's name; keeps away other processes of the run."""
    gate: Gate | None = None
    fresh: Fresh | None = None
    """Measures a test once more in fresh processes."""
    against: Against | None = None
    """What everything is measured against, in turns."""
    line: Line | None = None
    """From where this run is told what to do: it is the base of a duet."""
    locate: Callable[[Reference], Reference] = lambda reference: reference
    """Where a target lies that base names: what git ignores is in head's checkout only."""
    targets: TargetCache = field(init=False)
    _turn: AbstractContextManager[object] = field(default_factory=threading.RLock, init=False, repr=False)
    """Threads of a test take turns: they would disturb each other, and torch has but one profiler."""

    def __post_init__(self) -> None:
        self.targets = TargetCache(lambda stage: self.progress(stage))

    def load_options(self, settings: Settings) -> LoadOptions:
        """The settings' own options, completed by the defaults where the target leaves them a choice."""
        own = settings.load_options
        if settings.target is not None and not settings.target.cacheable:
            return own
        run = self.defaults.device
        if settings.gpus is not None and not run.startswith(("auto", "cuda")):
            run = "cuda"  # the mark says so, and goes before options
        return LoadOptions(
            device=choose("device", mark=settings.device, run=run),
            dtype=choose("dtype", mark=settings.dtype, run=self.defaults.dtype),
            load=settings.load,
            gpus=settings.gpus,
        )

    def load(self, reference: Reference, options: LoadOptions, *, fresh: bool) -> tuple[Target, float | Unknown]:
        """As `TargetCache.load`; what base holds of earlier tests gives way, too."""
        with self._beside_nobody(reference, options):
            try:
                return self.targets.load(reference, options, fresh=fresh)
            except NoRoomError:
                if self.against is None:
                    raise
            self.against.release()  # outside of `except`, whose error holds on to the half-built model
            return self.targets.load(reference, options, fresh=fresh)

    def _beside_nobody(self, reference: Reference, options: LoadOptions) -> AbstractContextManager[object]:
        """Loading would disturb who measures on the same GPU; on anything else nobody measures beside a test."""
        if not (reference.cacheable and reference.in_process):
            return nullcontext()
        device = device_of(options.device, options.gpus).name
        return self.exclusive(device) if device.startswith("cuda") else nullcontext()

    def effort(self, settings: Settings) -> Effort:
        threads = choose("threads", mark=settings.threads, run=self.defaults.threads)
        return Effort(
            rounds=choose("rounds", mark=settings.rounds, run=self.defaults.rounds),
            max_time=self.defaults.max_time,
            threads=threads if isinstance(threads, int) else None,
            smoke=self.defaults.smoke,
        )

    def measure(self, target: Target, load: float | Unknown, settings: Settings, test: str, label: str) -> Evidence:
        """Measure as the settings say, in these conditions; in turns with base where there is one."""
        from pytest_llmperf.gate import Evidence

        effort = self.effort(settings)
        environment = environment_of(target, effort.threads)
        evidence = Evidence(test, NOT_MEASURED, settings, label)
        measured = functools.partial(
            measure,
            target,
            settings.workload,
            effort,
            load,
            environment=environment,
            objectives=objectives(settings.limits),
            price_per_hour=self.defaults.price_per_hour,
            trace=self._trace(evidence.key),
            make_room=functools.partial(self.targets.let_go, target),
            progress=self.progress,
        )
        try:
            with (
                self._turn,
                self.exclusive(target.device.name),
                self._shortage_told(target, settings),
                self._watching(target, environment.threads) as watch,
            ):
                watched = functools.partial(measured, watch=watch)
                measurement = self._taken(evidence, environment, target.id, watched)
        finally:
            self.progress("")
        evidence.measurement = ranks.agreed(measurement)
        return evidence

    def _taken(self, evidence: Evidence, environment: Environment, target: str, measured: Measured) -> Measurement:
        """In turns, where this is a base or there is one; else by itself."""
        settings = evidence.settings
        by_itself = alone(lambda rounds: look(rounds, settings.limits))
        if self.line is not None and self.gate is not None:
            from pytest_llmperf.against import as_base

            return as_base(self.line, evidence, self.gate, measured)
        if self.against is not None and self.gate is not None:
            rules = self.gate.rules(settings, environment, target)
            limits_need = functools.partial(look, limits=settings.limits, precisely=False)
            return self.against.measure(evidence, self.gate, rules, measured, limits_need, by_itself)
        return measured(by_itself)

    def _watching(self, target: Target, threads: int | None) -> AbstractContextManager[Watch]:
        in_turns = self.against is not None or self.line is not None
        beside = _SERVER_TOO if isinstance(target, Served) else _RANKS_TOO if ranks.world() > 1 else None
        shared = _BASE_TOO if in_turns else beside
        return watching(target.device.names, threads or 1, shared)

    def judge(self, evidence: Evidence) -> Result:
        """Its limits, and its comparison with the baseline."""
        from pytest_llmperf.judge import judge

        result = judge(evidence, self.gate, judged=not self.defaults.smoke)
        broken = any(row.verdict is Verdict.BROKEN for row in result.rows)
        shown = {"always": not self.defaults.smoke, "on-failure": broken, "never": False}
        if not shown[self.defaults.profile] or evidence.measurement.served:
            return result
        counts = evidence.measurement.counts
        profile = Profile.of(result.target, result.workload, counts.prefill, counts.decode)
        return dataclasses.replace(result, profile=profile)

    def profile(self, target: Target, settings: Settings, key: str) -> Profile:
        """Its operators at the workload of the settings, with nothing measured beside them."""
        trace = self._trace(key)
        file = trace and trace()
        try:
            with self._turn, self.exclusive(target.device.name), self._shortage_told(target, settings):
                self.progress("profiling")
                profiled = functools.partial(profile_of, target, settings.workload, self.effort(settings).threads, file)
                profile = with_room(profiled, functools.partial(self.targets.let_go, target))()
        finally:
            self.progress("")
        why = untraced(file, profile.prefill.ops) if file is not None else ""
        return dataclasses.replace(profile, unknown={**profile.unknown, "trace": why}) if why else profile

    @contextmanager
    def _shortage_told(self, target: Target, settings: Settings) -> Iterator[None]:
        """An error says where the memory went, and what was taken for the attempt is handed back."""
        try:
            yield
        except OutOfMemoryTargetError as error:
            facts = (
                shortage.of_device(target.device, error.__cause__),
                shortage.of_target(target, settings.workload),
                shortage.of_others(self.targets.gave_way),
            )
            message = shortage.told(error, *facts)
            forget_frames(error)
            target.device.release()
            raise OutOfMemoryTargetError(message) from error

    def _trace(self, key: str) -> Callable[[], Path] | None:
        folder = None if self.defaults.smoke else self.defaults.traces
        return None if folder is None else functools.partial(trace_file, folder, key)


_BASE_TOO = Unknown("base and head took turns meanwhile")
_RANKS_TOO = Unknown("the other ranks are processes of their own")
_SERVER_TOO = Unknown("the server is another process itself")
NOT_MEASURED = Measurement(target="", workload=Settings().workload, rounds=())


def objectives(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    """Those that a request keeps or breaks by itself."""
    return tuple(limit for limit in limits if is_objective(limit))


def look(rounds: Sequence[Round], limits: Iterable[Limit], *, precisely: bool = True) -> Need:
    """What the rounds so far still lack for these limits, and for precision."""
    limits = list(limits)
    seen = Measurement(target="", workload=_ANY, rounds=tuple(rounds), objectives=objectives(limits))
    so_far = metrics.summarize(seen)
    held = [(limit, so_far.samples[limit.metric]) for limit in limits]
    timed = [(limit, sample) for limit, sample in held if isinstance(sample, Sample)]
    if any(not supported(sample.samples, limit.statistic) for limit, sample in timed):
        return Need.SAMPLES
    gating = [m.name for m in metrics.CATALOGUE.values() if m.gates and m.kind is metrics.Kind.TIMED]
    precise = not precisely or all(_precise(so_far.samples[name]) for name in gating)
    settled = all(not straddles(limit, interval(sample, limit.statistic) or (0, 0)) for limit, sample in timed)
    return Need.NOTHING if precise and settled else Need.PRECISION


_ANY = Settings().workload


def _precise(sample: Sample | Unknown) -> bool:
    if isinstance(sample, Unknown):
        return True
    spread = interval(sample, "median")
    return spread is not None and spread[1] - spread[0] <= 2 * PRECISION * sample.median


class Llm:
    """The fixture `llm`: loads the test's target and measures it, as the test's marks say.

    Args:
        key: the test's node id.
        levels: what its marks say, nearest first.
    """

    def __init__(self, session: Session, key: str, levels: Sequence[Level]) -> None:
        self._session = session
        self._key = key
        self._levels = list(levels)
        self._loaded: tuple[Target, tuple[Reference, Hashable]] | None = None
        self._load_time: float | Unknown = Measurement.load
        self._evidence: dict[str, Evidence] = {}
        self.profiles: list[Profile] = []
        """What was profiled by itself."""

    def measure(self, label: str | None = None, limits: Iterable[Limit | str] = (), **overrides: Any) -> Measurement:
        """Measure the target, and judge the limits when the test has ended.

        Args:
            label: names this measurement among several of one test.
            limits: more limits, nearer than the mark's.
            overrides: any keyword of the mark.

        Raises:
            UsageError: no target was named, an override is no keyword, or the label was used before.
            TargetError: the target cannot be loaded or served.
            MeasurementError: it produced other than what was asked.
        """
        _check_label(label)
        limits = _listed(limits)
        settings = merge([check(limits, overrides), *self._levels])
        key = self._key if label is None else f"{self._key}::{label}"
        if key in self._evidence:
            raise UsageError(f"{key} was measured before: give each measure() of a test a label of its own")
        target = self._target(settings)
        load_time, self._load_time = self._load_time, Measurement.load
        self._evidence[key] = self._session.measure(target, load_time, settings, self._key, label or "")
        return self._evidence[key].measurement

    def scaling(self, label: str | None = None, limits: Iterable[Limit | str] = (), **overrides: Any) -> Scaling:
        """Measure at several sizes of the workload, each a measurement with a label and rows of its own.

        Args:
            label: comes before `prompt_tokens=512`, where a test scales more than once.
            limits: of each measurement, nearer than the mark's.
            overrides: any keyword of the mark; exactly one size is a list.

        Raises:
            UsageError: see `sizes_of`; and as `measure()` does.
        """
        _check_label(label, "scaling")
        bounds = _listed(limits)
        check(bounds, {keyword: value for keyword, value in overrides.items() if keyword not in SIZES})
        name, sizes = sizes_of(overrides)
        for size in sizes:  # all of them, before any time goes into the first
            settings = merge([check((), {**overrides, name: size}), *self._levels])
            if name == "prompt_tokens" and settings.workload.prompt is not None:
                raise UsageError(f"prompt_tokens={sizes}: a prompt= text has the length that its tokenizer makes of it")
            self._target(settings).request(settings.workload, 0)
        named = "" if label is None else f"{label} "
        by_size = {size: self.measure(f"{named}{name}={size}", bounds, **{**overrides, name: size}) for size in sizes}
        return Scaling(name, dict(sorted(by_size.items())))

    def profile(self, **overrides: Any) -> Profile:
        """The operators of the target's prefill and decode, apart from measuring.

        Args:
            overrides: any keyword of the mark.

        Raises:
            UsageError: no target was named, or an override is no keyword.
            TargetError: the target cannot be loaded or served.
        """
        settings = merge([check((), overrides), *self._levels])
        profile = self._session.profile(self._target(settings), settings, self._key)
        self.profiles.append(profile)
        return profile

    @property
    def limited(self) -> bool:
        """Whether its marks set limits, which only a measurement can keep."""
        return any(level.limits for level in self._levels)

    @property
    def measured(self) -> bool:
        """Whether anything was."""
        return bool(self._evidence)

    def results(self) -> list[Result]:
        """What everything measured so far comes to, at first look; of a base, head says what."""
        if self._session.line is not None:
            return []
        return [self._session.judge(evidence) for evidence in self._evidence.values()]

    def bases(self) -> dict[str, dict[str, Any]]:
        """By key what its verdicts rest on, in plain data."""
        from pytest_llmperf.judge import basis_of

        session = self._session
        found = {
            key: basis_of(evidence, session.gate, judged=not session.defaults.smoke)
            for key, evidence in self._evidence.items()
        }
        return {key: basis.to_plain() for key, basis in found.items()}

    def settled(self) -> list[Result]:
        """What it comes to in the end.

        Whatever would be REGRESSED is measured again in fresh processes first, and so is everything while
        sessions of several processes are recorded.
        """
        session = self._session
        if session.gate is None or session.fresh is None:
            return self.results()
        from pytest_llmperf.settle import Settling

        settling = Settling(self._key, self._evidence, session.gate, session.fresh, session.judge, self._elsewhere)
        return settling.settled()

    def _elsewhere(self, stage: str, measure_there: Callable[[], object]) -> None:
        """A measurement by other processes, which load the same."""
        session = self._session
        self._loaded = None
        session.targets.clear()
        session.progress(stage)
        device = next(iter(self._evidence.values())).measurement.environment.device
        try:
            if session.against is not None:
                session.against.release()
            with session.exclusive(device):
                measure_there()
        finally:
            session.progress("")

    def load(self, target: object, *, fresh: bool = False, **load: Any) -> Target:
        """Choose the target in the test's body, instead of in the mark.

        Args:
            target: anything a mark's `model=` takes.
            fresh: load it anew though the session holds it already, which makes the next request a cold one.
            load: as the mark's `load=`; `dtype`, `device` and `gpus` as the mark's.
        """
        own: dict[str, Any] = {name: load.pop(name) for name in ("dtype", "device", "gpus") if name in load}
        level = check((), {"model": resolve(target), **own, **({"load": load} if load else {})})
        self._levels = [level, *[_without_target(outer) for outer in self._levels]]
        self._loaded = None
        return self._target(merge(self._levels), fresh=fresh)

    @property
    def target(self) -> Target:
        """The loaded target."""
        return self._target(merge(self._levels))

    @property
    def model(self) -> Any:
        """The loaded model object; None for targets that have none."""
        return self.target.model

    @property
    def tokenizer(self) -> Any:
        """The target's tokenizer, or None."""
        return self.target.tokenizer

    @property
    def names_target(self) -> bool:
        return any("model" in level.keywords for level in self._levels)

    def _target(self, settings: Settings, *, fresh: bool = False) -> Target:
        if settings.target is None:
            raise UsageError(
                f"{self._key} names no target: write @llm_perf(model=…), or llm.load(…) before llm.measure()"
            )
        reference = self._session.locate(settings.target)
        options = self._session.load_options(settings)
        asked_for = (reference, options.key)
        if self._loaded is not None and self._loaded[1] == asked_for and not fresh:
            return self._loaded[0]
        self._loaded = None  # so that the cache can let it go
        target, seconds = self._session.load(reference, options, fresh=fresh)
        self._load_time = seconds
        self._loaded = (target, asked_for)
        if self._session.gate is not None and self._session.against is None and self._session.line is None:
            self._session.gate.check(self._key, target.device.name)
        return target


def _listed(limits: Iterable[Limit | str]) -> list[Limit | str]:
    """One limit, or several."""
    if isinstance(limits, (str, Limit, Tolerance)):
        return [limits]
    if not isinstance(limits, Iterable):
        raise UsageError(f"limits={limits!r}: expected a list of limits, like [ttft_ms < 50]")
    return list(limits)


def _check_label(label: object, call: str = "measure") -> None:
    """A limit given where the label stands would be a gate lost in silence."""
    if isinstance(label, (Limit, Tolerance)) or (isinstance(label, str) and {"<", ">"} & set(label)):
        raise UsageError(f"llm.{call}({str(label)!r}): limits go in limits=[…]; the first argument is a label")
    if label is not None and not (
        isinstance(label, str) and label.strip() and label.isprintable() and "::" not in label
    ):
        raise UsageError(f"llm.{call}({label!r}): expected a label of one line, without '::'")


def _without_target(level: Level) -> Level:
    """Load options of a mark belong to the mark's target, not to one chosen in the body."""
    kept: Mapping[str, Any] = {name: value for name, value in level.keywords.items() if name not in ("model", "load")}
    return dataclasses.replace(level, keywords=kept)
