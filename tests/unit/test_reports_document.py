"""A run as JSON: nothing is lost on the way, the schema is published, and what is broken is told with its place."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_llmperf.baselines.basis import Basis
from pytest_llmperf.baselines.entries import Change
from pytest_llmperf.baselines.store import Store
from pytest_llmperf.errors import ReportError
from pytest_llmperf.gate import Evidence, Gate
from pytest_llmperf.judge import basis_of, judge
from pytest_llmperf.measure import Effort, measure
from pytest_llmperf.metrics import CATALOGUE
from pytest_llmperf.model import Environment, Measurement, Sample, Workload
from pytest_llmperf.reports import document
from pytest_llmperf.reports.recorded import Recorded
from pytest_llmperf.reports.run import Run
from pytest_llmperf.results import Result
from pytest_llmperf.settings import Settings
from tests.fakes import FakeClock, FakeTarget

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "docs" / "report.schema.json"
KEY = "tests/test_chat.py::test_turn[ö|8]"


def measured() -> Measurement:
    """Of a target that knows some things of itself and not others."""
    clock = FakeClock()
    target = FakeTarget(clock, scales=[1.0, 1.1, 0.97, 1.03])
    here = Environment(device="cpu", hardware="cpu-x", dtype="float32", threads=1, versions={"torch": "2.13.0"})
    return measure(target, Workload(8, 6), Effort(rounds=3, max_time=1.0), environment=here, clock=clock)


def report(folder: Path, **fields: Any) -> Run:
    evidence = Evidence(KEY, measured(), Settings())
    gate = Gate(Store(folder))
    result = dataclasses.replace(judge(evidence, gate), parameters={"name": "ö", "size": 8, "share": 0.5, "deep": None})
    known = Run(
        "2026-11-22T10:00:00+00:00",
        tool="0.1.0",
        commit="abcdef0123456789",
        dirty=True,
        results=(result,),
        bases={KEY: basis_of(evidence, gate)},
        places={KEY: "tests/test_chat.py:12"},
        failures={"tests/test_chat.py::test_other": "AssertionError"},
        recorded=Recorded((Change(KEY, "new", {}),), {KEY: "it breaks a limit"}, stale=("gone",), done=True),
    )
    return dataclasses.replace(known, **fields)


def test_a_real_measurement_comes_back_as_it_was(tmp_path: Path) -> None:
    run = report(tmp_path)
    text = document.written(run)
    read = document.run_of(text)
    assert document.written(read) == text
    assert read.results == run.results
    before, after = run.bases[KEY].measurement, read.bases[KEY].measurement
    assert after.unknown == before.unknown
    assert {"kernels_per_token", "ops_per_token"} <= after.unknown.keys()
    for name in CATALOGUE:
        sample = before.samples[name]
        if isinstance(sample, Sample):
            assert after.samples[name].by_round == sample.by_round
    assert after.rounds == before.rounds
    assert after.to_json() == before.to_json()


def test_a_basis_travels_between_processes(tmp_path: Path) -> None:
    plain = report(tmp_path).bases[KEY].to_plain()
    assert Basis.from_plain(json.loads(json.dumps(plain))).to_plain() == plain


def test_the_schema_that_is_published_is_that_of_the_code() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == document.json_schema()


def test_a_report_is_what_its_schema_says(tmp_path: Path) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    content = json.loads(document.written(report(tmp_path)))
    jsonschema.validate(content, schema)
    del content["results"][0]["key"]
    with pytest.raises(jsonschema.ValidationError, match="'key' is a required property"):
        jsonschema.validate(content, schema)


def _set(*path: Any, to: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        content[path[-1]] = to

    return change


BROKEN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "another version": (_set("schema", to=2), "schema: expected a whole number from 1 to 1, not 2"),
    "a version of another type": (_set("schema", to="1"), 'schema: expected a whole number from 1 to 1, not "1"'),
    "a version that is no number": (_set("schema", to=True), "schema: expected a whole number from 1 to 1, not true"),
    "a field that is missing": (lambda content: content["results"][0].pop("target"), "results.0.target is missing"),
    "no number": (_set("results", 0, "rounds", to="many"), "results.0.rounds: expected a valid integer"),
    "no verdict": (_set("results", 0, "rows", 0, "verdict", to="FINE"), "results.0.rows.0.verdict: expected "),
    "a workload that cannot be": (_set("results", 0, "workload", "batch_size", to=0), "batch_size=0: expected a whole"),
    "no measurement": (
        _set("bases", KEY, "measurement", to=[]),
        'bases."tests/test_chat.py::test_turn[ö|8]".measurement',
    ),
    "something else": (lambda content: content.pop("results"), "this is no report"),
}


def test_names_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    content = json.loads(document.written(report(tmp_path)))
    later = {**content, "weather": "fine", "results": [{**each, "mood": 1} for each in content["results"]]}
    assert document.run_of(json.dumps(later)) == document.run_of(json.dumps(content))


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_told_with_its_place(tmp_path: Path, name: str) -> None:
    change, told = BROKEN[name]
    content = json.loads(document.written(report(tmp_path)))
    change(content)
    file = tmp_path / "r.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ReportError) as error:
        document.read(file)
    message = str(error.value)
    assert message.startswith(f"{file}: {told}"), message
    assert message.endswith("; expected a report of pytest --llmperf-json")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "line 1, column 1: Expecting value"),
        (b"\xff\xfe", "this is no text"),
        (b"[1]", "this is no report"),
        (b'{"schema": 1, "tests": {}}', "this is no report"),
        (b'{"schema": 1,\n "began"', "line 2, column 9: Expecting ':' delimiter"),
        (b"[" * 100_000, "nested too deeply"),
    ],
    ids=["empty", "binary", "list", "baseline", "cut", "deep"],
)
def test_what_is_no_report_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "r.json"
    file.write_bytes(content)
    with pytest.raises(ReportError) as error:
        document.read(file)
    assert str(error.value) == f"{file}: {told}; expected a report of pytest --llmperf-json"


@pytest.mark.parametrize(("name", "told"), [("gone.json", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(ReportError, match=told):
        document.read(tmp_path / name)


# Several as one


def of(*keys: str, failures: tuple[str, ...] = (), **fields: Any) -> Run:
    results = tuple(
        Result(key, "gpt2", Workload(), "cpu", 3, (), label=key.rpartition("::")[2] * key.endswith("again"))
        for key in keys
    )
    places = {result.test: "a.py:1" for result in results} | dict.fromkeys(failures, "a.py:1")
    return Run(
        "2026-11-22T10:00:00+00:00", results=results, places=places, failures=dict.fromkeys(failures, "no"), **fields
    )


def test_shards_are_shown_as_one() -> None:
    run = document.merged([of("a", "b", fault="interrupted"), of("c", failures=("d",)), of(fault="interrupted")])
    assert [result.key for result in run.results] == ["a", "b", "c"]
    assert run.failures == {"d": "no"}
    assert run.places.keys() == {"a", "b", "c", "d"}
    assert run.fault == "interrupted"


def test_of_a_test_that_several_have_run_the_last_counts() -> None:
    """Its labels and its failure, too."""
    run = document.merged([of("a", "a::again", "b", failures=("a", "b")), of("a")])
    assert [result.key for result in run.results] == ["b", "a"]
    assert run.failures == {"b": "no"}


def test_what_shards_have_recorded_is_told_together() -> None:
    one = Recorded((Change("a", "new", {}),), {"x": "it breaks a limit"}, stale=("s",), done=True)
    other = Recorded((Change("b", "updated", {}),), stale=("s", "t"))
    recorded = document.merged([of(recorded=one), of(), of(recorded=other)]).recorded
    assert recorded is not None
    assert [change.key for change in recorded.changes] == ["a", "b"]
    assert (recorded.unfit, recorded.stale, recorded.done) == ({"x": "it breaks a limit"}, ("s", "t"), True)
