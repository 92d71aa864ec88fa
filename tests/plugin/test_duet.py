"""`--llmperf-against` as a user meets it: what is compared, what comes of it, and what cannot be compared and why."""

from __future__ import annotations

import pytest

from tests.plugin.duets import ENGINE, HEAD, Project, Ran

OK, FAILED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED
QUIET = ("INCONCLUSIVE", "OK", "IMPROVED")
"""What fails no run; without a calibration one pair proves nothing."""
BASE_ENGINE = f"""{ENGINE}

turn = same = paced(2)
slower, faster = paced(2), paced(6)
works, present, crashes = False, False, True
"""
HEAD_ENGINE = f"""{ENGINE}

turn = same = added = paced(2)
slower, faster = paced(6), paced(2)
works, present, crashes = True, True, False
"""
SHARED = """
@llm_perf(output_tokens_per_s > 300, model=stream(engine.slower), **SIZES)
def test_slower(llm):
    llm.measure()

@llm_perf(model=stream(engine.same), **SIZES)
def test_same(llm):
    llm.measure()

@llm_perf(tpot_ms < 5.5, model=stream(engine.faster), **SIZES)
def test_faster(llm):
    llm.measure()

@llm_perf(model=stream(engine.same), **SIZES)
def test_fails(llm):
    assert engine.works, "not mended yet"
    llm.measure()

@llm_perf(model=stream(engine.same), **SIZES)
def test_skips(llm):
    if not engine.present:
        pytest.skip("not there yet")
    llm.measure()

@llm_perf(model=stream(engine.same), **SIZES)
def test_crashes(llm):
    if engine.crashes:
        os._exit(31)
    llm.measure()

@llm_perf(model=stream(engine.same), **SIZES)
def test_after_it(llm):
    llm.measure()
"""
LABELS = """
@llm_perf(model=stream(engine.same), prompt_tokens=8, output_tokens={tokens})
def test_workload(llm):
    llm.measure()

@llm_perf(model=stream(engine.same), **SIZES)
def test_labels(llm):
    for label in {labels}:
        llm.measure(label)
"""
GONE = """
@llm_perf(model=stream(engine.same), **SIZES)
def test_gone(llm):
    llm.measure()
"""
ADDED = """
@llm_perf(model=stream(engine.slower), **SIZES)
def test_added(llm):
    llm.measure()

def test_of_added_code(llm):
    llm.load(stream(engine.added))
    llm.measure()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    of_base = LABELS.format(tokens=12, labels=["first", "other", "last"])
    of_head = LABELS.format(tokens=10, labels=["last", "other", "more"])
    return Project(
        tmp_path_factory.mktemp("duet") / "project",
        {"engine.py": BASE_ENGINE, "test_chat.py": HEAD + SHARED + of_base + GONE},
        {
            "engine.py": HEAD_ENGINE,
            "test_chat.py": HEAD + SHARED + of_head,
            "test_more.py": HEAD + ADDED,
            "test_import.py": "from engine import added\n" + HEAD + GONE,
        },
    )


@pytest.fixture(scope="module")
def run(project: Project) -> Ran:
    return project.against("-v")


def test_a_slower_head_is_regressed_by_pairs_of_processes_and_fails_the_run(run: Ran) -> None:
    assert run.status == FAILED
    run.has(
        "REGRESSED ttft_ms * → * ms (+*tolerance 50 %; [2-8] pairs), REGRESSED tpot_ms *[2-8] pairs), BROKEN *",
        "  tpot_ms * ms *+* % ± * REGRESSED * [2-8] pairs",
        "*2 failed, 10 passed in*",
    )


def test_the_commits_are_named_and_how_much_was_compared(project: Project, run: Ran) -> None:
    base = f"base {project.short()} (merge base with base)"
    run.has(f"llmperf: {base}, head {project.short('HEAD')}", f"  {base}*: [2-8] pairs of processes, * rounds in turns")


def test_what_is_no_slower_passes(run: Ran) -> None:
    assert run.verdicts["test_same"] in QUIET
    assert run.verdicts["test_faster"] in QUIET
    run.has("  tpot_ms * ms *−* % * < 5.5 *")


def test_limits_are_judged_on_head_alone(run: Ran) -> None:
    assert run.verdicts["test_slower"] == "BROKEN", "though base keeps the limit"
    assert run.verdicts["test_faster"] in QUIET, "though base breaks it"


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        ("test_fails", "its test fails: AssertionError: not mended yet"),
        ("test_skips", "its test is skipped: not there yet"),
        ("test_crashes", "process ended with status 31"),
        ("test_workload", "it measures another workload (prompt_tokens=8, output_tokens=12,"),
        ("test_labels::other", "its test measures other earlier: both must measure in the same order"),
        ("test_labels::more", "its test does not measure more"),
        ("test_gone", "head's test on its code: it cannot collect the test: ImportError: cannot import name"),
        ("test_of_added_code", "head's test on its code: its test fails: AttributeError: module 'engine' has no"),
    ],
)
def test_what_base_cannot_measure_is_new_and_says_why(project: Project, run: Ran, test: str, reason: str) -> None:
    assert run.verdicts[test] == "NEW"
    run.has(f"NEW: test_*.py::{test}: base {project.short()} (merge base with base): *{reason}*")


def test_a_base_that_ended_in_one_test_is_there_for_the_next(run: Ran) -> None:
    assert run.verdicts["test_after_it"] in QUIET
    assert run.verdicts["test_labels::last"] in QUIET, "base measures others before it"


def test_a_test_that_base_lacks_is_compared_by_heads_own_test_on_bases_code(run: Ran) -> None:
    assert run.verdicts["test_added"] == "REGRESSED"
    run.has("REGRESSED ttft_ms * → * ms (+*[2-8] pairs), REGRESSED tpot_ms *[2-8] pairs)")


def test_what_head_no_longer_has_is_no_matter(run: Ran) -> None:
    assert "14 measured: 1 broken, 1 regressed, " in run.text


def test_nothing_stays_behind(project: Project, run: Ran) -> None:
    assert project.left() == []
