"""What a duet settles beyond time: memory, what a stored baseline makes suspect, and what a budget leaves open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.duets import HEAD, SLOW, TURN, Project

OK, FAILED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED

# What has no noise

MODELS = """\
import pytest
from engine import LONG, READS
from pytest_llmperf import *

def model(positions):
    return random_weights("gpt2", n_layer=1, n_embd=64, n_head=4, vocab_size=500, n_positions=positions)

@llm_perf(prompt_tokens=8, output_tokens=16, tolerance=0.9)
@pytest.mark.parametrize("positions", [LONG, 64], ids=["long", "short"])
def test_model(llm, positions):
    loaded = llm.load(model(positions)).model
    for layer in loaded.transformer.h if READS and positions == LONG else ():
        layer.register_forward_pre_hook(lambda layer, given: float(given[0].sum()) and None)
    llm.measure()
"""


def test_a_model_that_does_more_is_regressed_exactly_with_the_reason_and_an_unchanged_is_not(
    tmp_path: Path,
) -> None:
    project = Project(
        tmp_path / "project",
        {"engine.py": "LONG, READS = 64, False\n", "test_model.py": MODELS},
        {"engine.py": "LONG, READS = 6400, True\n"},
    )
    run = project.against()
    assert run.status == FAILED
    assert run.verdicts["test_model[long]"] == "REGRESSED"
    assert run.verdicts["test_model[short]"] in ("INCONCLUSIVE", "OK", "IMPROVED")
    run.has("REGRESSED peak_memory_mib *(+*tolerance *), REGRESSED weights_mib * → * MiB (+*exact; [2-8] processes)*")
    run.has("*where the time went, decode, ms per token", "*aten::sum*0 → 1 calls", "*hint: 1 more wait of the host*")
    assert project.left() == []


# What there is no time for


def test_a_budget_that_is_spent_leaves_suspects_undecided_and_names_them(tmp_path: Path) -> None:
    two = TURN + TURN.replace("test_turn", "test_other")
    project = Project(tmp_path / "project", {"test_chat.py": HEAD + two}, {"engine.py": SLOW})
    run = project.against("--llmperf-budget=0.001")
    assert run.verdicts == {"test_turn": "INCONCLUSIVE", "test_other": "INCONCLUSIVE"}
    run.has(
        "test_chat.py::test_*: t*_ms * → * ms (+*; the 0.001 s of --llmperf-budget are spent)",
        "2 undecided: the 0.001 s of --llmperf-budget are spent",
    )
    assert project.left() == []


# What a stored baseline makes suspect

STORED_INI = "[pytest]\nllmperf_rounds = 12\nfilterwarnings = error\n"
CALM = """\
from pytest_llmperf.model import Conditions

Conditions.disturbance = lambda conditions, threads: ""
"""
"""What is disturbed is neither recorded nor REGRESSED, and other tests may run beside this one."""


def recorded(folder: Path, times: float = 1.0) -> Project:
    """A repository whose baseline was recorded at its first commit, as if on a machine so many times as slow."""
    project = Project(folder, {"pytest.ini": STORED_INI, "conftest.py": CALM, "test_chat.py": HEAD + TURN})
    assert project.run("--llmperf-update").status == OK
    for session in (content := read(project))["tests"]["test_turn"]["sessions"]:
        metrics = session["metrics"]
        session["metrics"] = {name: {"median": reading["median"] * times} for name, reading in metrics.items()}
    baseline(project).write_text(json.dumps(content))
    project.commit({})
    return project


def baseline(project: Project) -> Path:
    [path] = (project.folder / "baselines").rglob("test_chat.json")
    return path


def read(project: Project) -> Any:
    return json.loads(baseline(project).read_text())


def test_code_that_became_slower_is_regressed_by_duet_with_the_commit_that_recorded(tmp_path: Path) -> None:
    project = recorded(tmp_path / "project")
    project.commit({"engine.py": SLOW.replace("paced(6)", "paced(10)")})
    run = project.run()
    assert run.status == FAILED
    assert run.verdicts["test_turn"] == "REGRESSED"
    run.has(f"REGRESSED *tpot_ms * → * ms (+*[2-8] pairs; by duet with {project.short()} *)*")
    assert project.left() == []


def test_a_suspect_whose_code_is_as_it_was_is_cleared_by_duet(tmp_path: Path) -> None:
    project = recorded(tmp_path / "project", times=0.02)
    run = project.run("-v")
    assert run.status == OK
    assert "REGRESSED" not in run.text
    assert f"by duet with {project.short()}" in run.text
    assert project.left() == []


def test_without_a_duet_the_stored_rule_speaks_and_says_why(tmp_path: Path) -> None:
    project = recorded(tmp_path / "project", times=0.02)
    run = project.run("--llmperf-confirm=never")
    run.has("REGRESSED *tpot_ms *(+*; 2 processes)*")
    assert "by duet" not in run.text

    content = read(project)
    [session] = content["tests"]["test_turn"]["sessions"]
    for said, why in [
        ({"dirty": True}, f"recorded at {project.short()} with changes that are in no commit"),
        ({"commit": "0" * 40, "dirty": False}, "commit 000000000, which recorded the baseline, is not in this *"),
    ]:
        session.update(said)
        baseline(project).write_text(json.dumps(content))
        run = project.run()
        assert run.status == FAILED
        run.has(f"REGRESSED *tpot_ms *(+*2 processes; by the stored rule: {why})*")
    assert project.left() == []
