"""Every code block of the README and the docs is run, and every table made from code is what the code says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from torch.distributed.run import get_args_parser

from pytest_llmperf import cli
from pytest_llmperf.baselines.environment import hardware
from pytest_llmperf.model import Profile, Workload
from pytest_llmperf.options import OPTIONS
from pytest_llmperf.profiling.explain import Change, Seen, explain
from pytest_llmperf.reports.catalogue import catalogue_markdown
from pytest_llmperf.reports.mission import mission_tables
from pytest_llmperf.reports.profile import profile_tables
from pytest_llmperf.reports.terminal import failure_text, tables_text
from pytest_llmperf.results import Explanation, Grown, Result
from tests.plugin.suites import HEAD
from tests.profiles import mission, phase

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text()
ACTION = yaml.safe_load((ROOT / ".github" / "actions" / "gate" / "action.yml").read_text())


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}-{self.language}"


BLOCKS = [
    Block(page.name, (token.map or [0])[0] + 1, token.info, token.content)
    for page in PAGES
    for token in MarkdownIt().parse(page.read_text())
    if token.type == "fence"
]


def blocks(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def test_every_block_has_a_language_that_is_run() -> None:
    assert {block.language for block in BLOCKS} <= {"python", "console", "ini", "yaml", "text"}


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_a_python_block_is_a_test_module_that_passes(suite: pytest.Pytester, block: Block) -> None:
    suite.makepyfile(test_block=block.text)
    # A run within this process forgets what it imported, and torch's compiler cannot be imported twice.
    run = suite.runpytest_subprocess if "torch.compile" in block.text else suite.runpytest
    outcomes = run("--llmperf-max-time=0.2").parseoutcomes()
    assert outcomes.pop("passed", 0) >= 1
    assert outcomes == {}


NOTHING_SAVED = pytest.mark.filterwarnings("ignore:Not saving anything", "ignore:Can't compare")
"""What pytest-benchmark warns of where nothing is run."""


@NOTHING_SAVED
@pytest.mark.parametrize("block", blocks("console"), ids=str)
def test_a_console_block_holds_commands_that_exist(suite: pytest.Pytester, block: Block) -> None:
    commands = [line.removeprefix("$ ") for line in block.text.splitlines() if line.startswith("$ ")]
    assert commands
    for command in commands:
        check_command(suite, command)


@NOTHING_SAVED
@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_a_workflow_runs_commands_that_exist(suite: pytest.Pytester, block: Block) -> None:
    commands = commands_of(yaml.safe_load(block.text))
    assert commands
    for command in commands:
        check_command(suite, command)


def commands_of(pipeline: Any) -> list[str]:
    """Those of GitHub Actions, Buildkite or GitLab CI."""
    if "jobs" in pipeline:
        steps = [step for job in pipeline["jobs"].values() for step in job["steps"]]
        for step in steps:
            if step.get("uses", "").endswith("/llmperf"):
                assert set(step["with"]) <= set(ACTION["inputs"])
        return [step["run"] for step in steps if "run" in step]
    if "steps" in pipeline:
        return [command for step in pipeline["steps"] for command in step["command"]]
    return [command for job in pipeline.values() for command in job["script"]]


def test_every_input_of_the_action_is_in_its_table() -> None:
    page = (ROOT / "docs" / "ci.md").read_text()
    for name, given in ACTION["inputs"].items():
        default = given["default"] if name != "token" else ""
        assert f"| `{name}` | {f'`{default}`' if default else ''}" in page, name


def check_command(suite: pytest.Pytester, command: str) -> None:
    program, *arguments = shlex.split(command)
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", MAKEFILE, re.MULTILINE), command
        subprocess.run(["make", "-n", *arguments], cwd=ROOT, check=True, capture_output=True)
    elif program == "pip":
        assert arguments[0] == "install", command
        assert {name.partition("[")[0] for name in arguments[1:]} <= {"pytest-llmperf", "-e", "."}, command
    elif program in ("python", "bash"):
        assert (ROOT / arguments[0]).is_file(), command
        check = ["bash", "-n"] if program == "bash" else [sys.executable, "-m", "py_compile"]
        subprocess.run([*check, str(ROOT / arguments[0])], check=True)
    elif program == "git":
        assert arguments == ["add", "baselines"], command
    elif program == "buildkite-agent":
        assert arguments[0] in ("annotate", "artifact"), command
    elif program == "torchrun":
        assert get_args_parser().parse_args(arguments).training_script == "pytest", command
    elif program == "llmperf":
        cli._parser().parse_args(arguments)
    elif program == "pytest":
        suite.makepyfile(test_command="def test_nothing(): pass")
        options = [argument for argument in arguments if argument.startswith("-")]
        options = [option for option in options if "--benchmark-json=" not in option]  # 5.2 leaves the file open
        assert suite.runpytest("--collect-only", *options).ret == 0, command
    else:
        pytest.fail(f"no way to check the command {command!r}")


@pytest.mark.parametrize("block", blocks("ini"), ids=str)
def test_an_ini_block_is_accepted(pytester: pytest.Pytester, block: Block) -> None:
    pytester.makeini(block.text)
    pytester.makepyfile("def test_nothing(): pass")
    assert pytester.runpytest("--strict-config", "-p", "no:cacheprovider").ret == 0


def text_block(page: str) -> Block:
    (block,) = [block for block in blocks("text") if block.page == page]
    return block


def test_every_text_block_is_compared_with_what_it_shows() -> None:
    here = {"README.md", "baselines.md", "explanations.md", "profile.md"}
    elsewhere = {"metrics.md"}  # tests/unit/test_targets_shortage.py
    assert {block.page for block in blocks("text")} == here | elsewhere


def test_the_reason_shown_is_what_a_reason_looks_like() -> None:
    def waits(times: int) -> Seen:
        return Seen({"aten::_local_scalar_dense": {"decode": times}}, metrics={"syncs_per_token": times})

    hints = explain(Change(waits(1), waits(2))).hints
    copies = Grown("aten::copy_", (24, 48), (0.10, 0.71))
    told = Explanation({"decode": (copies, Grown("aten::_local_scalar_dense", (1, 2), (0.02, 0.15)))}, hints)
    text = failure_text(Result("test_chat.py::test_turn", "gpt2", Workload(), "cpu", 3, (), explanation=told), 120)
    assert " ".join(text_block("explanations.md").text.split()) in " ".join(text.split())


CHAT = """
@llm_perf(model=TINY, prompt_tokens=8, output_tokens=4)
def test_chat_turn(llm):
    llm.measure()
"""


def test_the_folders_shown_are_those_that_are_written(suite: pytest.Pytester) -> None:
    folder = suite.mkdir("tests")
    (folder / "test_chat.py").write_text(HEAD + CHAT)
    suite.runpytest("--llmperf-update", "--llmperf-force", "--llmperf-max-time=0.2").assert_outcomes(passed=1)
    written = {path for path in suite.path.glob("baselines/**/*") if path.is_file()}
    written.add(suite.path / "baselines" / hardware("cpu") / "noise.json")  # written by llmperf calibrate
    shown = {line.split()[0].replace("cpu-amd-epyc-2c", hardware("cpu")) for line in lines_of("baselines.md")}
    assert {path.relative_to(suite.path).as_posix() for path in written} == shown


def lines_of(page: str) -> list[str]:
    return text_block(page).text.splitlines()


def test_the_failure_shown_is_what_a_failure_looks_like(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    block = text_block("README.md")
    shown_test = blocks("python")[0].text
    suite.makepyfile(test_chat=shown_test.replace("tpot_ms < 200", "tpot_ms < 0.005"))
    output = suite.runpytest("--llmperf-max-time=0.2").stdout.str()
    start = output.index("BROKEN tpot_ms")
    seen = output[start:].splitlines()[: len(block.text.splitlines())]
    assert list(map(without_figures, seen)) == list(map(without_figures, block.text.splitlines()))


def test_the_profiles_shown_have_the_columns_of_profiles() -> None:
    seen = phase(addmm=4, add=1, copy_=2)
    tables = [
        *mission_tables([mission(prefill=seen, decode=seen)]),
        *profile_tables(Profile.of("fake", Workload(), seen, seen)),
    ]
    printed = {without_figures(line) for line in tables_text(tables, [], 100, colour=False).splitlines()}
    heads = [
        line
        for block in blocks("text")
        if block.page == "profile.md"
        for line in map(without_figures, block.text.splitlines())
        if re.search("TTFT|per s|went|share$", line)
    ]
    assert len(heads) == 3
    assert set(heads) <= printed


def without_figures(line: str) -> str:
    """The line without numbers, intervals, the machine's name and the widths of columns."""
    line = re.sub(r" · cpu .*", " · cpu", line)
    line = re.sub(r"( ± )?\d[\d,.]*", "#", line)
    line = re.sub(r"##", "#", line)
    return re.sub(r"[\s─]+", " ", line).strip()


def test_the_table_of_metrics_is_the_catalogue() -> None:
    assert catalogue_markdown() in (ROOT / "docs" / "metrics.md").read_text()


def test_every_option_is_in_the_table_of_options() -> None:
    page = (ROOT / "docs" / "writing-tests.md").read_text()
    for option in OPTIONS.values():
        assert f"`{option.flag or option.ini}" in page, option.name


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
