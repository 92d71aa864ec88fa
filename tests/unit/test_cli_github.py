"""What the action runs: how pytest is called, and the comment on the pull request."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pytest_llmperf.cli import github
from pytest_llmperf.errors import UsageError
from tests.comments import Comments
from tests.servers import Server


def gate(**given: str) -> list[str]:
    return github._arguments({f"GATE_{name.upper()}": value for name, value in {"mode": "baseline", **given}.items()})


def test_pytest_is_called_with_what_the_inputs_say() -> None:
    assert gate() == []
    assert gate(args="tests -k 'chat and not slow'") == ["tests", "-k", "chat and not slow"]
    assert gate(mode="against") == ["--llmperf-against="]
    assert gate(args="tests", mode="against", base=" origin/main ", strict="new") == [
        "tests",
        "--llmperf-against=origin/main",
        "--llmperf-strict=new",
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"mode": "duet"}, "mode: duet: expected baseline, or against"),
        ({"base": "main"}, "base: main: only mode: against has a base"),
        ({"args": "-k 'chat"}, "args: -k 'chat: No closing quotation"),
    ],
)
def test_an_input_that_makes_no_sense_is_refused(given, told) -> None:
    with pytest.raises(UsageError, match=f"^{told}$"):
        gate(**given)


def test_without_what_a_page_needs_there_are_the_other_reports(tmp_path, monkeypatch, capsys) -> None:
    called: list[list[str]] = []

    def passed(command: list[str]) -> subprocess.CompletedProcess:
        called.append(command[3:])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(github.subprocess, "run", passed)
    environ = {"GATE_MODE": "baseline", "RUNNER_TEMP": str(tmp_path), "GITHUB_OUTPUT": str(tmp_path / "outputs")}
    assert github.gate(environ) == 0
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert github.gate(environ) == 0
    flags = [[argument.partition("=")[0] for argument in arguments] for arguments in called]
    assert flags[0] == ["--llmperf-json", "--llmperf-markdown", "--llmperf-html"]
    assert flags[1] == ["--llmperf-json", "--llmperf-markdown"]
    told = "llmperf: no page among the reports, which needs plotly: pip install 'pytest-llmperf[html]'\n"
    assert capsys.readouterr().out == told


def test_a_run_that_ends_without_a_report_is_annotated(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(github.subprocess, "run", lambda command: subprocess.CompletedProcess(command, 4))
    environ = {"GATE_MODE": "baseline", "RUNNER_TEMP": str(tmp_path), "GITHUB_OUTPUT": str(tmp_path / "outputs")}
    assert github.gate(environ) == 4
    told = "::error title=llmperf::pytest ended with status 4; the log of this step says why\n"
    assert capsys.readouterr().out == told
    assert (tmp_path / "outputs").read_text().endswith("\nstatus=4\n")


# The comment


@pytest.fixture
def environ(tmp_path) -> dict[str, str]:
    (tmp_path / "event.json").write_text('{"pull_request": {"number": 12}}')
    (tmp_path / "llmperf.md").write_text("### all is well\n")
    return {
        "GATE_NAME": "cpu",
        "GATE_REPORTS": str(tmp_path),
        "GATE_TOKEN": "secret",
        "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
        "GITHUB_REPOSITORY": "someone/something",
    }


def comment(comments: Comments, environ: dict[str, str]) -> int:
    with Server(comments) as server:
        return github.comment({**environ, "GITHUB_API_URL": server.url.removesuffix("/v1")})


def test_the_first_run_makes_a_comment(environ) -> None:
    comments = Comments("a remark")
    assert comment(comments, environ) == 0
    assert comments.bodies == ["a remark", "<!-- llmperf: cpu -->\n### all is well\n"]
    assert {each.headers["authorization"] for each in comments.asked} == {"Bearer secret"}


@pytest.mark.parametrize("earlier", [0, 1, 99, 100, 250])
def test_later_runs_change_their_own(environ, earlier: int) -> None:
    others = [f"a remark, see <!-- llmperf: cpu --> {number}" for number in range(earlier)]
    comments = Comments(*others, "<!-- llmperf: gpu -->\nanother job's", "<!-- llmperf: cpu -->\nold")
    assert comment(comments, environ) == 0
    assert comments.bodies[-1] == "<!-- llmperf: cpu -->\n### all is well\n"
    assert comments.bodies[:-1] == [*others, "<!-- llmperf: gpu -->\nanother job's"]


@pytest.mark.parametrize("status", [403, 404])
def test_a_fork_that_may_not_comment_is_told_and_does_not_fail(environ, capsys, status: int) -> None:
    assert comment(Comments(status=status), environ) == 0
    assert capsys.readouterr().out.startswith("::notice title=llmperf::no comment from this job: its token may not")


def test_a_fault_of_github_is_a_warning(environ, capsys) -> None:
    assert comment(Comments(status=500), environ) == 0
    assert capsys.readouterr().out.startswith("::warning title=llmperf::no comment from this job: HTTP Error 500")
    assert github.comment({**environ, "GITHUB_API_URL": "http://127.0.0.1:9"}) == 0
    assert capsys.readouterr().out.startswith("::warning title=llmperf::no comment from this job: ")


def test_without_a_pull_request_nobody_is_asked(environ, tmp_path, capsys) -> None:
    (tmp_path / "event.json").write_text('{"ref": "refs/heads/main"}')
    comments = Comments()
    assert comment(comments, environ) == 0
    assert comments.asked == []
    assert "::notice title=llmperf::no comment" in capsys.readouterr().out


@pytest.mark.parametrize("event", ["[]", '{"pull_request": null}', '{"pull_request": {}}'])
def test_an_event_of_no_pull_request_has_no_comment(environ, tmp_path, capsys, event: str) -> None:
    (tmp_path / "event.json").write_text(event)
    assert github.comment({**environ, "GITHUB_API_URL": ""}) == 0
    assert capsys.readouterr().out.startswith("::notice title=llmperf::no comment")


@pytest.mark.parametrize("event", [b"{no", b"\xff", None])
def test_an_event_that_cannot_be_read_fails_no_job(environ, tmp_path, capsys, event: bytes | None) -> None:
    (tmp_path / "event.json").unlink() if event is None else (tmp_path / "event.json").write_bytes(event)
    assert github.comment({**environ, "GITHUB_API_URL": ""}) == 0
    assert capsys.readouterr().out.startswith("::warning title=llmperf::no comment from this job: ")


def test_an_answer_that_makes_no_sense_fails_no_job(environ, capsys, monkeypatch) -> None:
    monkeypatch.setattr(github, "_call", lambda *_: {"message": "later"})
    assert github.comment({**environ, "GITHUB_API_URL": "http://here"}) == 0
    assert "warning title=llmperf::no comment from this job: http://here/repos/" in capsys.readouterr().out


def test_a_comment_without_a_text_is_not_ours(monkeypatch) -> None:
    monkeypatch.setattr(github, "_call", lambda *_: [{"body": None, "url": "1"}, {"body": "mark", "url": "2"}])
    assert github._known("http://here", "mark", "secret") == "2"


def test_outside_a_job_it_says_what_is_missing(environ, capsys, monkeypatch) -> None:
    with pytest.raises(UsageError, match=r"^GITHUB_API_URL is not set: expected to be called by the action"):
        github.comment(environ)
    monkeypatch.setattr(github.sys, "argv", ["github", "gate"])
    monkeypatch.setenv("RUNNER_TEMP", "/nonexistent")
    assert github.main() == 4
    assert capsys.readouterr().out.startswith("::error title=llmperf::")
