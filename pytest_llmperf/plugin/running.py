"""The working part of the plugin: hands out `llm`, judges when the test's body has ended, tells the report."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest

from pytest_llmperf import ranks
from pytest_llmperf.against import Against
from pytest_llmperf.baselines.environment import commit, cpu_model, nvidia_gpus, versions
from pytest_llmperf.baselines.store import Store
from pytest_llmperf.duet.repository import base_of
from pytest_llmperf.errors import DeviceMissingError, LlmperfError, NoRoomError, forget_frames
from pytest_llmperf.gate import Gate
from pytest_llmperf.metrics import CATALOGUE, Kind
from pytest_llmperf.model import Measurement, plain
from pytest_llmperf.plugin.again import FreshProcesses
from pytest_llmperf.plugin.child import CHILD, Child
from pytest_llmperf.plugin.config import baselines_folder, is_recording, option, traces_folder, width
from pytest_llmperf.plugin.items import FIXTURES, hiding_fixture, key_of, measures, variant_of
from pytest_llmperf.plugin.marks import levels_of, parameters_of
from pytest_llmperf.plugin.opposite import OPPOSITE, Opposite, checked_out
from pytest_llmperf.plugin.progress import Progress
from pytest_llmperf.plugin.reports import asked_for
from pytest_llmperf.plugin.xdist import RECORDED
from pytest_llmperf.reports.table import row_name
from pytest_llmperf.results import Result, Row
from pytest_llmperf.session import Defaults, Llm, Session
from pytest_llmperf.units import now

LLM = pytest.StashKey[Llm]()
RESULTS = pytest.StashKey[list[Result]]()
ENDED = pytest.StashKey[bool]()
"""Whether the test's body is over."""
FAILED_HERE = pytest.StashKey[bool]()
"""Whether it was a limit that failed the test, and not its own body."""


class Running:
    """Registered once a test that measures was collected."""

    def __init__(self, config: pytest.Config, measuring: Sequence[pytest.Item]) -> None:
        self._config = config
        self._progress = Progress(config)
        smoke = option(config, "mode") == "smoke"
        self._opposite = None if smoke else _opposite(config, measuring, self._progress)
        judged = CHILD not in config.stash and ranks.rank() == 0
        self._fresh = FreshProcesses(config, self._opposite, self._progress) if judged and not smoke else None
        child = config.stash.get(CHILD, Child({}))
        self._session = Session(
            Defaults(
                device=option(config, "device"),
                dtype=option(config, "dtype"),
                threads=option(config, "threads"),
                rounds=option(config, "rounds"),
                max_time=option(config, "max_time"),
                smoke=smoke,
                profile=option(config, "profile"),
                traces=traces_folder(config) if judged else None,
                price_per_hour=option(config, "price_per_hour") or Measurement.price_per_hour,
            ),
            progress=self._progress,
            exclusive=_exclusive(config),
            gate=None if smoke else _gate(config, len(measuring)),
            fresh=self._fresh,
            against=Against(self._opposite) if self._opposite is not None else None,
            line=child.line,
            locate=child.locate,
        )

    def release(self) -> None:
        """Forget every target."""
        self._session.targets.clear()

    def pytest_unconfigure(self) -> None:
        for held in (self._opposite, self._fresh):
            if held is not None:
                held.close()

    def llm(self, request: pytest.FixtureRequest) -> Llm:
        """The one `Llm` of a test, its target loaded if the marks name one."""
        item: pytest.Item = request.node
        if not measures(item):  # its verdict would come too late: this part of the plugin is not at work yet
            pytest.fail(f"{item.nodeid}: name the fixture llm among the test's arguments", pytrace=False)
        if LLM not in item.stash:
            with self._told_plainly():
                llm = Llm(self._session, key_of(item), levels_of(item))
                if llm.names_target:
                    _ = llm.target
            item.stash[LLM] = llm
        return item.stash[LLM]

    def pytest_report_collectionfinish(self) -> str | list[str]:
        if self._config.get_verbosity() < 0:
            return []
        lines = [f"llmperf: {_machine(option(self._config, 'device'))}, {_threads(option(self._config, 'threads'))}"]
        if self._opposite is not None:
            commit_, dirty = commit(self._config.rootpath, baselines_folder(self._config))
            lines.append(f"llmperf: base {self._opposite.said}, head {commit_[:9]}{' with changes' * dirty}")
        return lines

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        if self._opposite is not None and CHILD not in self._config.stash:
            try:
                self._opposite.start()
            except LlmperfError as error:
                pytest.exit(str(error), returncode=pytest.ExitCode.TESTS_FAILED)
            finally:
                self._progress("")
        return (yield)

    def pytest_runtest_logstart(self) -> None:
        if self._fresh is not None:
            self._fresh.begin()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Judges inside the call phase, so that xfail, reruns, JUnit and annotations see an ordinary failure."""
        try:
            with self._told_plainly():
                outcome = yield
        except Exception:
            if measures(item) and (hint := _hiding_hint(item)):
                item.add_report_section("call", "llmperf", hint)
            raise
        finally:
            item.stash[ENDED] = True
        llm = item.stash.get(LLM, None)
        if llm is not None and llm.measured:
            with self._told_plainly():
                item.stash[RESULTS] = llm.settled() if ranks.rank() == 0 else []
                told = ranks.agreed(self._failure(item.stash[RESULTS]))
            if told:
                item.stash[FAILED_HERE] = True
                pytest.fail(told, pytrace=False)
        elif measures(item) and not (llm is not None and llm.profiles and not llm.limited):
            why = "has limits" if llm is not None and llm.profiles else "asked to measure, by its mark or fixture,"
            nothing = f"{item.nodeid} {why} and measured nothing: call llm.measure()"
            pytest.fail("\n".join(filter(None, [nothing, _hiding_hint(item)])), pytrace=False)
        return outcome

    def _failure(self, results: list[Result]) -> str:
        """What a test fails with; empty where it passes."""
        if CHILD in self._config.stash:  # who asked for it judges
            return ""
        from pytest_llmperf.reports.terminal import failure_text

        return "\n\n".join(failure_text(result, width(self._config)) for result in results if result.fails)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        ended = call.when == "call" and item.stash.get(ENDED, False)  # subtests report on themselves within the body
        results = _results(item) if ended else []
        shown = item.stash.get(FAILED_HERE, False)  # then the failure's text is its table
        for result in results:
            _tell(item, result, with_section=not shown)
        if ended and call.excinfo is not None:
            _tell_profiles(item)
        report = yield
        if shown and (crash := getattr(report.longrepr, "reprcrash", None)) is not None:
            crash.message = crash.message.partition("\n")[0]  # which a CI's short summary repeats whole, and JUnit
        if results:
            of_test = {**variant_of(item), "parameters": parameters_of(item)}
            report.llmperf = [{**plain(result), **of_test} for result in results]  # type: ignore[attr-defined]  # reports take extras
            if asked_for(item.config):
                report.llmperf_bases = item.stash[LLM].bases()  # type: ignore[attr-defined]
        if call.when == "teardown":
            if self._session.against is not None and item.stash.get(LLM, None) is not None:
                self._session.against.leave()  # a rerun finds base at the beginning of the test again
            _forget(item)
        return report

    @contextmanager
    def _told_plainly(self) -> Iterator[None]:
        """Our errors without the traceback of our insides, unless `-vv` asks for it."""
        try:
            yield
            return
        except LlmperfError as error:
            if (child := self._config.stash.get(CHILD, None)) is not None:
                child.no_room = isinstance(error, NoRoomError)
            if isinstance(error, NoRoomError):
                forget_frames(error)
            missing_device = isinstance(error, DeviceMissingError)
            if self._config.get_verbosity() >= 2 and not missing_device:
                raise
            message = f"{error}{_OR_SKIP * missing_device}"
        finally:
            self._progress("")
        if missing_device and option(self._config, "missing_device") == "skip":
            raise pytest.skip.Exception(message, _use_item_location=True) from None
        raise pytest.fail.Exception(message, pytrace=False) from None


_OR_SKIP = ", and ini llmperf_missing_device=skip skips such tests here"


def _results(item: pytest.Item) -> list[Result]:
    """As they were settled, or at first look where the test's own body failed."""
    if RESULTS in item.stash:
        return item.stash[RESULTS]
    first_look = item.stash[LLM].results() if LLM in item.stash else []
    return [dataclasses.replace(result, unfit="its test did not pass") for result in first_look]


def _forget(item: pytest.Item) -> None:
    """A rerun measures anew, and a target that gave way must not be held by a test that is over."""
    keys: tuple[pytest.StashKey[Any], ...] = (LLM, RESULTS, ENDED, FAILED_HERE)
    for key in keys:
        if key in item.stash:
            del item.stash[key]


def _tell(item: pytest.Item, result: Result, *, with_section: bool) -> None:
    """A section of the report (`-rP` shows it), and properties for JUnit XML."""
    if with_section:
        from pytest_llmperf.reports.terminal import full_text

        item.add_report_section("call", "llmperf", full_text(result, width(item.config)))
    label = result.key.removeprefix(key_of(item)).removeprefix("::")
    properties: list[tuple[str, object]] = [
        (_property(label, row), row.value) for row in result.rows if row.value is not None
    ]
    properties.append((f"{label}.verdict" if label else "verdict", result.verdict.value if result.verdict else ""))
    named = {name for name, _ in properties}
    item.user_properties[:] = [given for given in item.user_properties if given[0] not in named] + properties


def _tell_profiles(item: pytest.Item) -> None:
    """What a failed test asked of operators may be why it failed."""
    from pytest_llmperf.reports.terminal import profile_text

    for profile in item.stash[LLM].profiles if LLM in item.stash else []:
        item.add_report_section("call", "llm.profile()", profile_text(profile, width(item.config)))


def _property(label: str, row: Row) -> str:
    return f"{label}.{row_name(row)}" if label else row_name(row)


def _exclusive(config: pytest.Config) -> Callable[[str], AbstractContextManager[object]]:
    """Keeps the rest of a run of parallel workers (xdist) away from a measurement."""
    worker = config.pluginmanager.get_plugin("llmperf-worker")
    return nullcontext if worker is None else worker.exclusive


def _opposite(config: pytest.Config, measuring: Sequence[pytest.Item], tell: Callable[[str], None]) -> Opposite | None:
    """What the run is against; None where that is the stored baseline.

    Raises:
        pytest.UsageError: there is no such base.
        pytest.exit.Exception: its code cannot be made ready.
    """
    tests = [item.nodeid for item in measuring]
    against = option(config, "against")
    if CHILD in config.stash or against is None:
        return config.stash.get(OPPOSITE, None)
    try:
        base = base_of(config.rootpath, against)
    except LlmperfError as error:
        raise pytest.UsageError(str(error)) from None
    modules = list(dict.fromkeys(item.path for item in measuring))
    kinds = ["head"] if option(config, "base_tests") == "head" else ["base", "head"]
    codes = [functools.partial(checked_out, config, base, kind, modules, tell) for kind in kinds]
    opposite = Opposite(config, f"{base.commit[:9]} ({base.said})", codes, tests)
    try:
        opposite.launch()  # it imports while this process goes on
    except LlmperfError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.TESTS_FAILED)
    return opposite


def _gate(config: pytest.Config, measuring: int) -> Gate:
    folder = baselines_folder(config)
    gate = frozenset(option(config, "gate"))
    timed = [metric for metric in CATALOGUE.values() if metric.kind is Kind.TIMED]
    return Gate(
        Store(folder),
        recorded=getattr(config, "workerinput", {}).get(RECORDED) or now(),
        commit=commit(config.rootpath, folder),
        tolerance=option(config, "tolerance"),
        gate=gate,
        strict=option(config, "strict"),
        comparisons=measuring * sum(metric.gates or metric.name in gate for metric in timed),
        recording=is_recording(config),
        force=option(config, "force"),
        processes=option(config, "sessions"),
        confirm=option(config, "confirm") == "auto" and ranks.world() == 1,
        explain=option(config, "profile") != "never",
    )


def _hiding_hint(item: pytest.Item) -> str:
    hiding = hiding_fixture(item)
    if hiding is None:
        return ""
    name, place = hiding
    other = next(known for known in FIXTURES if known != name)
    return f"its fixture {name!r} is the one at {place}, which hides this plugin's; request {other!r} instead"


def _machine(device: str) -> str:
    gpus = nvidia_gpus() if device == "auto" or device.startswith("cuda") else []
    names = ", ".join(f"{name} ×{gpus.count(name)}" for name in dict.fromkeys(gpus))
    software = ", ".join(
        f"{name} {version}" for name, version in versions().items() if name in ("torch", "transformers")
    )
    return f"{device} ({names or cpu_model()}), {software}"


def _threads(threads: int | str) -> str:
    return "all threads" if threads == "all" else f"{threads} thread{'s' * (threads != 1)}"
