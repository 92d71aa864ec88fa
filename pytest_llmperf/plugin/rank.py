"""pytest in one of several ranks: they are at the end of each test together, and rank 0 alone writes."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pytest_llmperf import ranks
from pytest_llmperf.errors import MeasurementError
from pytest_llmperf.plugin.items import measures


class Rank:
    """Registered in each rank of several."""

    def __init__(self) -> None:
        self._met = False
        """Whether a test was run at whose end the ranks meet."""
        self._why = ""

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Whatever became of a test in one rank, all of them begin the next one together, or none does."""
        report = yield
        if not measures(item):
            return report
        if call.excinfo is not None:
            self._why = call.excinfo.exconly(tryshort=True).splitlines()[0]
        if call.when == "teardown":
            self._met = True
            ranks.meeting().regroup(item.nodeid, self._why)
            self._why = ""
            if lost := ranks.meeting().lost:
                self._stop(item.session, lost)
        return report

    def _stop(self, session: pytest.Session, why: str) -> None:
        """End the run, upon which torchrun ends the other ranks, and let it say what has happened."""
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        session.shouldfail = why
        try:
            raise MeasurementError(why)
        except MeasurementError as error:  # torchrun shows its traceback
            get_error_handler().record_exception(error)

    def pytest_unconfigure(self) -> None:
        if self._met:
            ranks.meeting().part()
