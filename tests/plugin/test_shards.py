"""A suite shared out among runners: their baselines are merged, and their reports read, as those of one run."""

from __future__ import annotations

import re

import pytest

from tests.commands import called
from tests.plugin.suites import HEAD

CHAT = """
@llm_perf(ALWAYS, model=TINY, prompt_tokens=8, output_tokens=4)
def test_turn(llm):
    llm.measure()
"""
PARTS = {"chat": CHAT, "retrieval": CHAT + CHAT.replace("test_turn", "test_long").replace("ALWAYS", "NEVER")}


def test_what_parts_recorded_and_reported_is_joined(
    suite: pytest.Pytester, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    limits = "ALWAYS, NEVER = weights_mib < 100, weights_mib < 1e-6\n"
    for part, tests in PARTS.items():
        suite.mkdir(part).joinpath(f"test_{part}.py").write_text(HEAD + limits + tests)
        recording = ("--llmperf-update", "--llmperf-force", f"--llmperf-baselines=recorded-{part}")
        suite.runpytest(part, *recording, f"--llmperf-json={part}.json")
    capsys.readouterr()
    status, out, err = called(capsys, "merge", "recorded-chat", "recorded-retrieval", "--into", "baselines")
    assert (status, err) == (0, "")
    assert out.startswith("3 tests of 2 shards, 3 sessions; ")
    again = suite.runpytest("--llmperf-strict=new")
    again.assert_outcomes(passed=2, failed=1)
    assert not re.search("new|stale", again.stdout.str().splitlines()[-2])
    capsys.readouterr()
    status, out, _ = called(capsys, "report", "chat.json", "retrieval.json")
    assert status == 1
    assert "3 measured: 1 broken" in out
    assert out.startswith("BROKEN weights_mib ")
