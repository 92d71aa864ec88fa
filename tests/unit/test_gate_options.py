"""Options of loading, as they are stored with a session."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from pytest_llmperf.baselines.schema import Session
from pytest_llmperf.gate import _options
from pytest_llmperf.settings import Settings


@pytest.mark.parametrize(
    ("given", "stored"),
    [(math.nan, "nan"), (math.inf, "inf"), (0.5, 0.5), (None, None), (True, True), ([1], "[1]")],
)
def test_what_json_cannot_hold_is_stored_as_text(given, stored):
    measurement = SimpleNamespace(environment=SimpleNamespace(dtype="float32", threads=1))
    options = _options(measurement, Settings(load={"x": given}))
    assert options["load.x"] == stored
    Session(recorded="", target="gpt2", options=options, metrics={})


@pytest.mark.parametrize(("gpus", "stored"), [(None, {}), (2, {"gpus": 2})])
def test_the_number_of_gpus_is_stored_where_the_test_asks_for_some(gpus, stored):
    measurement = SimpleNamespace(environment=SimpleNamespace(dtype="bfloat16", threads=1))
    assert _options(measurement, Settings(gpus=gpus)) == {"dtype": "bfloat16", "threads": 1, **stored}
