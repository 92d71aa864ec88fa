"""Runs of pytest within this process share its imports: torch cannot be imported twice."""

from __future__ import annotations

import gc

import pytest

from tests.fakes import TINY


@pytest.fixture(scope="session", autouse=True)
def imported() -> None:
    """Import, before any inner run takes its snapshot of `sys.modules`, all that a measurement imports."""
    import hypothesis.internal.observability  # noqa: F401  # its plugin imports it at the end of every run
    import transformers.models.llama.modeling_llama  # noqa: F401  # older versions look their modules up again

    from pytest_llmperf.measure import Effort, measure
    from pytest_llmperf.model import Workload
    from pytest_llmperf.plugin import running  # noqa: F401
    from pytest_llmperf.reports import terminal  # noqa: F401  # and through it rich
    from pytest_llmperf.targets import LoadOptions, pretrained, resolve  # noqa: F401

    measure(resolve(TINY).load(LoadOptions(device="cpu")), Workload(8, 4), Effort(rounds=1, max_time=0.1))
    gc.collect()
    gc.freeze()  # or every memory pass collects all that torch brought along


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder for a test module that measures quickly."""
    pytester.makeini("[pytest]\nllmperf_max_time = 0.05\nllmperf_rounds = 3\naddopts = -p no:cacheprovider\n")
    return pytester
