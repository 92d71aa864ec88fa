"""`llmperf init`: what it writes, where, and that it touches nothing that is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pytest_llmperf.baselines.store import BESIDE
from pytest_llmperf.cli import main
from tests.repositories import git, repository

ROOT = Path(__file__).parents[2]
TEST = "tests/performance/test_llm_speed.py"
ACTION = ".github/actions/llmperf/action.yml"
WORKFLOW = ".github/workflows/performance.yml"
BASELINES = ["baselines/.gitattributes", "baselines/.gitignore"]


@pytest.fixture(autouse=True)
def settings(git_settings: None) -> None:
    """No repository of the user's own."""


def files(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith(".git/"))


def workflow(folder: Path) -> dict:
    return yaml.safe_load((folder / WORKFLOW).read_text())


def gate(folder: Path) -> dict:
    """The inputs of the action."""
    return workflow(folder)["jobs"]["gate"]["steps"][-1]["with"]


def install(folder: Path) -> str:
    return next(step["run"] for step in workflow(folder)["jobs"]["gate"]["steps"] if "run" in step)


def test_an_empty_folder_has_all_that_gates_a_pull_request(tmp_path, capsys):
    assert main(["init", str(tmp_path)]) == 0
    assert files(tmp_path) == sorted([TEST, ACTION, WORKFLOW, *BASELINES])
    compile((tmp_path / TEST).read_text(), TEST, "exec")
    assert (tmp_path / BASELINES[0]).read_text() == BESIDE[".gitattributes"]
    assert workflow(tmp_path)["jobs"]["gate"]["runs-on"] == "ubuntu-latest"
    assert gate(tmp_path) == {"args": "tests/performance", "mode": "against", "working-directory": "."}
    assert install(tmp_path) == "python -m pip install 'pytest-llmperf[html]'"
    out = capsys.readouterr().out
    assert f"wrote {TEST}\n" in out
    assert "git init: . is in no repository yet" in out


def test_a_folder_that_is_not_there_is_made(tmp_path, capsys):
    assert main(["init", str(tmp_path / "new" / "project")]) == 0
    assert (tmp_path / "new" / "project" / TEST).is_file()


def test_below_a_repository_the_workflow_is_written_at_its_top(tmp_path, monkeypatch, capsys):
    root = repository(tmp_path / "project")
    (root / "my app").mkdir()
    monkeypatch.chdir(root / "my app")
    assert main(["init"]) == 0
    assert files(root) == sorted(["code.txt", ACTION, WORKFLOW, *(f"my app/{name}" for name in (TEST, *BASELINES))])
    assert gate(root)["working-directory"] == "my app"
    out = capsys.readouterr().out
    assert f"wrote ../{WORKFLOW}\n" in out
    assert "git init" not in out


def test_a_folder_may_have_any_name(tmp_path):
    """YAML knows no pairs of escapes for one character, as JSON does."""
    root = repository(tmp_path / "project")
    folder = root / 'é \U0001f600 "x" $(id)'
    assert main(["init", str(folder)]) == 0
    assert gate(root)["working-directory"] == folder.name


def test_what_exists_stays_as_it_is_and_is_named(tmp_path, capsys):
    for name in (TEST, WORKFLOW):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("mine")
    (tmp_path / "baselines").mkdir()
    (tmp_path / BASELINES[0]).symlink_to("nowhere")
    assert main(["init", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        f"left as it is, for it exists: {TEST}",
        f"left as it is, for it exists: {BASELINES[0]}",
        f"wrote {BASELINES[1]}",
        f"wrote {ACTION}",
        f"left as it is, for it exists: {WORKFLOW}",
    ]
    assert (tmp_path / TEST).read_text() == (tmp_path / WORKFLOW).read_text() == "mine"
    assert not (tmp_path / "baselines" / "nowhere").exists()


def test_a_gpu_of_ones_own_runs_code_of_forks_only_by_a_label(tmp_path, capsys):
    assert main(["init", str(tmp_path), "--runner", "gpu"]) == 0
    job = workflow(tmp_path)["jobs"]["gate"]
    assert job["runs-on"] == ["self-hosted", "gpu"]
    assert "github.event.label.name == 'performance'" in job["if"]
    assert gate(tmp_path)["args"] == "tests/performance --llmperf-device=cuda"
    assert "pytest tests/performance --llmperf-device=cuda\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("runner", "labels", "own"),
    [
        ("ubuntu-24.04", "ubuntu-24.04", False),
        ("linux,gpu-t4", ["linux", "gpu-t4"], False),
        ("self-hosted, a100", ["self-hosted", "a100"], True),
    ],
)
def test_a_runner_may_be_named_by_its_labels(tmp_path, capsys, runner, labels, own):
    assert main(["init", str(tmp_path), "--runner", runner, "--device", "cuda:1"]) == 0
    job = workflow(tmp_path)["jobs"]["gate"]
    assert job["runs-on"] == labels
    assert ("if" in job) is own
    assert gate(tmp_path)["args"] == "tests/performance --llmperf-device=cuda:1"


@pytest.mark.parametrize("runner", ["", "a b", "x,", "${{ secrets.X }}", "a\n  steps: []"])
def test_what_is_no_label_is_refused_before_anything_is_written(tmp_path, capsys, runner):
    assert main(["init", str(tmp_path), "--runner", runner]) == 4
    assert "is no label: expected cpu, gpu, or labels such as linux,a100" in capsys.readouterr().err
    assert files(tmp_path) == []


def test_the_project_itself_is_installed_where_there_is_one(tmp_path, capsys):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "requirements.txt").touch()
    assert main(["init", str(tmp_path)]) == 0
    assert install(tmp_path) == "python -m pip install -r requirements.txt -e . 'pytest-llmperf[html]'"


def test_torch_for_processors_alone_is_not_what_a_gpu_needs(tmp_path, capsys):
    for name, device in (("cpu", "auto"), ("gpu", "cuda")):
        assert main(["init", str(tmp_path / name), "--device", device]) == 0
        steps = workflow(tmp_path / name)["jobs"]["gate"]["steps"]
        [index] = [step["env"]["PIP_EXTRA_INDEX_URL"] for step in steps if "env" in step]
        assert index == ("https://download.pytorch.org/whl/cpu" if device == "auto" else "")


def test_a_file_in_the_way_is_an_error_that_names_it(tmp_path, capsys):
    (tmp_path / "tests").touch()
    assert main(["init", str(tmp_path)]) == 1
    assert str(tmp_path / "tests") in capsys.readouterr().err


def test_the_action_that_is_written_is_ours():
    ours = ROOT / ".github" / "actions" / "gate" / "action.yml"
    assert (ROOT / "pytest_llmperf" / "cli" / "templates" / "action.yml").read_text() == ours.read_text()


def test_actions_are_those_that_our_own_workflows_use(tmp_path, capsys):
    ours = "".join(path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    for runner in ("cpu", "gpu"):
        assert main(["init", str(tmp_path / runner), "--runner", runner]) == 0
        used = [step["uses"] for step in workflow(tmp_path / runner)["jobs"]["gate"]["steps"] if "uses" in step]
        assert all(f"uses: {each}" in ours for each in used if not each.startswith("./"))


def test_git_sees_all_of_it(tmp_path, capsys):
    root = repository(tmp_path / "project")
    assert main(["init", str(root)]) == 0
    git(root, "add", "--all")
    assert git(root, "diff", "--cached", "--name-only").split() == sorted([TEST, ACTION, WORKFLOW, *BASELINES])
