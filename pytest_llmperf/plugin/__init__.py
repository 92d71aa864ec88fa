"""The pytest plugin. Nothing heavy is imported before a test that measures is collected.

A test *measures* if it carries the mark itself or requests the fixture `llm` (or its other name `llmperf`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_llmperf import ranks
from pytest_llmperf.errors import UsageError
from pytest_llmperf.mark import marker_help
from pytest_llmperf.plugin.benchmark import LeftOut, Publishing, only_benchmarks, publishing_flags
from pytest_llmperf.plugin.collected import Collected
from pytest_llmperf.plugin.config import add_options, check_options, option
from pytest_llmperf.plugin.items import measures
from pytest_llmperf.plugin.seen import Seen

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from pytest_llmperf.plugin.running import Running
    from pytest_llmperf.plugin.served import Servers
    from pytest_llmperf.session import Llm

RUNNING = pytest.StashKey["Running"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    if ranks.rank() > 0:
        from pytest_llmperf.plugin.child import WRITING, silence

        silence(config, WRITING)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", marker_help())
    try:
        check_options(config)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None
    collected = Collected(config)
    seen = Seen(config, collected)
    config.pluginmanager.register(collected, "llmperf-collected")
    if ranks.world() > 1:
        from pytest_llmperf.plugin.rank import Rank

        config.pluginmanager.register(Rank(), "llmperf-rank")
    if ranks.rank() == 0:
        config.pluginmanager.register(seen, "llmperf-seen")
    if flag := only_benchmarks(config):
        config.pluginmanager.register(LeftOut(flag), "llmperf-left-out")
    if flags := publishing_flags(config):
        config.pluginmanager.register(Publishing(config, flags, seen.results), "llmperf-publishing")
    if config.getoption("dist", "no") != "no":
        from pytest_llmperf.plugin.xdist import Controller

        config.pluginmanager.register(Controller(config), "llmperf-controller")


@pytest.fixture
def llm(request: pytest.FixtureRequest) -> Llm:
    """Loads the model that the test's `llm_perf` mark names, and measures it: `llm.measure()`."""
    return working_part(request.config).llm(request)


@pytest.fixture
def llmperf(request: pytest.FixtureRequest) -> Llm:
    """The fixture `llm` by another name, for suites that have an `llm` of their own."""
    return working_part(request.config).llm(request)


@pytest.fixture(scope="session")
def llm_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Starts servers, and ends them with the session: `llm_server("serve --port {port}", ready="http://…")`."""
    if option(request.config, "mode") == "off":
        pytest.skip("--llmperf=off")
    from pytest_llmperf.plugin.served import Servers

    servers = Servers(request.config, tmp_path_factory.mktemp("llm_server"))
    try:
        yield servers
    finally:
        servers.close()


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(
    collector: pytest.Collector,
) -> Generator[None, object, object]:
    """A mark that makes no sense is an error of its module's collection, with the place of the test."""
    made = yield
    for item in made if isinstance(made, list) else [made]:
        if isinstance(item, pytest.Item) and measures(item):
            from pytest_llmperf.plugin.marks import checked_settings

            try:
                checked_settings(item)
            except UsageError as error:
                raise collector.CollectError(str(error)) from None
    return made


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    measuring = [item for item in items if measures(item)]
    if not measuring:
        return
    if option(config, "mode") == "off":
        for item in measuring:
            item.add_marker(pytest.mark.skip(reason="--llmperf=off"))
        return
    from pytest_llmperf.plugin.marks import together_by_target

    items[:] = together_by_target(items, measuring)
    if config.getoption("collectonly"):
        return
    if hasattr(config, "workerinput"):  # by xdist
        from pytest_llmperf.plugin.xdist import Worker

        config.pluginmanager.register(Worker(config, measuring), "llmperf-worker")
    working_part(config, measuring)


def working_part(config: pytest.Config, measuring: Sequence[pytest.Item] = ()) -> Running:
    """The part of the plugin that measures, registered when it is first needed; told which tests do."""
    if RUNNING not in config.stash:
        from pytest_llmperf.plugin.running import Running

        config.stash[RUNNING] = Running(config, measuring)
        config.pluginmanager.register(config.stash[RUNNING], "llmperf-running")
    return config.stash[RUNNING]


def pytest_make_parametrize_id(val: object) -> str | None:
    """Targets and workloads as parameters are named by what they are."""
    if type(val).__module__.startswith("pytest_llmperf."):
        from pytest_llmperf.plugin.marks import parameter_id

        return parameter_id(val)
    return None
