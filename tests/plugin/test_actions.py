"""A pull request of a repository that `llmperf init` has set up, as its jobs in GitHub Actions see it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from pytest_llmperf.cli import main
from tests.comments import Comments
from tests.plugin.actions import ROOT, Job
from tests.repositories import commit, git, repository, write
from tests.servers import Server
from tests.stored import day, record, recording, session

ACTION = ".github/actions/llmperf/action.yml"
TEST = "tests/performance/test_llm_speed.py"
CHAT = """\
from transformers import GPT2Config, GPT2LMHeadModel

SIZES = dict(n_layer=1, n_embd=32, n_head=2, n_positions=64, vocab_size=100, bos_token_id=0, eos_token_id=0)


def load():
    return GPT2LMHeadModel(GPT2Config(**SIZES, use_cache={cached})).eval()
"""
USING_IT = """\
import chat
from pytest_llmperf import llm_perf


@llm_perf(prompt_tokens=16, output_tokens=6)
def test_chat_turn(llm):
    llm.load(chat.load())
    llm.measure()
"""
INI = """\
[pytest]
pythonpath = .
llmperf_max_time = 0.05
llmperf_rounds = 3
addopts = -p no:cacheprovider -p no:benchmark -p no:hypothesispytest
"""


@pytest.fixture
def project(suite: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git_settings: None) -> Path:
    """A repository with what `llmperf init` writes, with a model of its own and with counted baselines of it."""
    root = repository(tmp_path / "project")
    assert main(["init", str(root)]) == 0
    commit(root, {"chat.py": CHAT.format(cached=True), TEST: USING_IT, "pytest.ini": INI})
    monkeypatch.chdir(root)
    assert suite.runpytest(f"--rootdir={root}", "tests/performance", "--llmperf-update").ret == 0
    for timed in root.glob("baselines/cpu-*"):
        shutil.rmtree(timed)
    commit(root, {})
    return root


def pull_request(temp: Path, project: Path, server: Server) -> Job:
    api = {"GITHUB_API_URL": server.url.removesuffix("/v1")}
    return Job(temp, project, {"pull_request": {"number": 12}}, api)


def test_a_pull_request_that_breaks_the_cache_is_red_and_its_fix_is_green(project: Path, tmp_path: Path) -> None:
    comments = Comments("a remark")
    commit(project, {"chat.py": CHAT.format(cached=False)})
    asked = "tests/performance --llmperf-confirm=never"
    with Server(comments) as server:
        red = pull_request(tmp_path / "red", project, server).act(project / ACTION, args=asked, comment="true")
    assert red.status == 1
    [annotation] = red.annotations
    assert annotation.startswith(f"::error file={TEST},line=5,title=REGRESSED test_chat_turn::REGRESSED kv_cache_mib")
    assert "%0Ahint: the cache is not used" in annotation
    assert red.summary.startswith("### ❌ llmperf: 1 measured: 1 regressed\n")
    assert "hint: the cache is not used" in red.summary
    assert comments.bodies[1:] == [f"<!-- llmperf: llmperf -->\n{red.summary}"]
    assert {file.name for file in red.uploaded["llmperf"].iterdir()} >= {"llmperf.json", "llmperf.md"}

    commit(project, {"chat.py": CHAT.format(cached=True)})
    with Server(comments) as server:
        green = pull_request(tmp_path / "green", project, server).act(project / ACTION, args=asked, comment="true")
    assert (green.status, green.annotations) == (0, [])
    assert green.summary.startswith("### ✅ llmperf: 1 measured: 1 new\n")  # of this hardware only counts are stored
    assert comments.bodies == ["a remark", f"<!-- llmperf: llmperf -->\n{green.summary}"]
    assert json.loads((green.uploaded["llmperf"] / "llmperf.json").read_text())["failures"] == {}


def test_the_first_test_passes(suite: pytest.Pytester) -> None:
    assert main(["init", str(suite.path)]) == 0
    suite.runpytest("tests/performance", "--llmperf=smoke").assert_outcomes(passed=1)


def test_what_an_input_asks_for_in_vain_is_an_annotation(tmp_path: Path) -> None:
    write(tmp_path, {"test_chat.py": "def test_chat(): pass"})
    job = Job(tmp_path / "temp", tmp_path).act(ROOT / ".github/actions/gate/action.yml", mode="main; exit 0")
    assert job.status == 4
    assert job.annotations == ["::error title=llmperf::mode: main; exit 0: expected baseline, or against"]
    assert job.uploaded == {}


def test_a_module_that_cannot_be_imported_is_annotated_from_the_top_of_the_repository_on(
    suite: pytest.Pytester, capsys: pytest.CaptureFixture[str], git_settings: None
) -> None:
    git(suite.path, "init", "--quiet")
    below = suite.mkdir("below")
    (below / "pytest.ini").write_text("[pytest]\n")
    (below / "test_torn.py").write_text("import nowhere\n")
    assert suite.runpytest(f"--rootdir={below}", f"--config-file={below / 'pytest.ini'}", "below", REPORT).ret == 2
    capsys.readouterr()
    assert main(["report", str(suite.path / "report.json"), "--annotations"]) == 1
    told = capsys.readouterr().out
    assert "::error file=below/test_torn.py,line=1,title=failed%3A test_torn.py::" in told


REPORT = "--llmperf-json=report.json"


def test_only_the_step_that_comments_knows_the_token() -> None:
    steps = yaml.safe_load((ROOT / ".github/actions/gate/action.yml").read_text())["runs"]["steps"]
    assert ["token" in str(step) for step in steps] == [False, False, True]


# Baselines that a pull request's code recorded


def commit_job(tmp_path: Path, artifact: Path) -> tuple[Job, Path]:
    """The steps of the job that commits, with what the pull request's own job has left; and where it pushes to."""
    pushed = tmp_path / "pushed.git"
    head = repository(tmp_path / "work" / "head")
    record(head / "baselines", recording())
    told = commit(head, {})
    git(tmp_path, "clone", "--quiet", "--bare", str(head), str(pushed))
    (tmp_path / "work" / "trusted").mkdir()
    settings = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{pushed}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/someone/something.git",
    }
    job = Job(tmp_path / "temp", tmp_path / "work", environ=settings)
    shutil.copytree(artifact, job.temp / "baselines", symlinks=True)
    workflow = yaml.safe_load((ROOT / ".github/workflows/update-baselines.yml").read_text())
    steps = [each for each in workflow["jobs"]["commit"]["steps"] if "run" in each and "pip" not in each["run"]]
    context = {"needs.find.outputs.branch": "chat", "needs.find.outputs.commit": told, "github.token": "a token"}
    return job.steps(steps, context), pushed


def test_baselines_are_committed_with_what_changed(tmp_path: Path, git_settings: None) -> None:
    artifact = record(tmp_path / "recorded", recording("tests/test_chat.py::test_turn", session(day(2), weights=60.0)))
    job, pushed = commit_job(tmp_path, artifact)
    assert job.status == 0, job.log
    message = git(pushed, "log", "-1", "--format=%B", "chat")
    assert message.startswith("baselines: as recorded from ")
    assert re.search(r"weights_mib +50 +60 +\+20.0 %", message)
    assert "1 updated" in message
    stopped, token, told = re.split(r"::stop-commands::(\w{64})\n", job.log)
    assert "1 updated" not in stopped
    assert "1 updated" in told.partition(f"::{token}::")[0]
    changed = git(pushed, "diff", "--name-only", "main", "chat").split()
    assert changed == ["baselines/cpu-amd-epyc-2c/tests/test_chat.json", "baselines/exact-cpu/tests/test_chat.json"]


def test_nothing_is_committed_of_what_holds_more_than_baselines(tmp_path: Path, git_settings: None) -> None:
    artifact = record(tmp_path / "recorded", recording("tests/test_chat.py::test_turn", session(day(2), weights=60.0)))
    (artifact / "exact-cpu" / "tests" / "hook.json").symlink_to("/etc/passwd")
    job, pushed = commit_job(tmp_path, artifact)
    assert job.status == 1
    assert "hook.json' is a link: nothing was taken over" in job.log
    assert git(pushed, "branch", "--format=%(refname:short)") == "main"
