"""Whose code runs as base, wherever a project keeps it, and what is said where it cannot run."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.plugin.duets import ENGINE, HEAD, INI, TURN, Project, Ran

OK, FAILED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED
BOTH = {"base", "head"}


def logged(whose: str) -> str:
    """A module that leaves a line with its own place wherever it is loaded."""
    return f"""{ENGINE}
import os

turn = paced(2)
with open(os.environ["LOG"], "a") as log:
    print({whose!r}, __file__, file=log)
"""


def both(name: str) -> tuple[dict[str, str], dict[str, str]]:
    """A logged module, in base and in head."""
    return {name: logged("base")}, {name: logged("head")}


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def read(log: Path) -> dict[str, Path]:
    """Whose module was loaded, and from where."""
    lines = [line.split(" ", 1) for line in log.read_text().splitlines()]
    return {whose: Path(place) for whose, place in lines}


def assert_compared(project: Project, run: Ran) -> None:
    assert run.status == OK, run.text
    assert run.verdicts["test_turn"] not in ("NEW", "REGRESSED")
    assert project.left() == []


# Where it lies


def test_src_layout_by_ini_pythonpath_and_the_conftest_of_base(tmp_path: Path, log: Path) -> None:
    base, head = both("src/engine.py")
    conftest = "import pytest\n\n@pytest.fixture\ndef size():\n    return {}\n"
    test = HEAD + TURN.replace("(llm)", "(llm, size)").replace("measure()", "measure(prompt_tokens=size)")
    tests = {"pytest.ini": f"{INI}pythonpath = src\n", "tests/test_chat.py": test}
    project = Project(
        tmp_path / "project",
        {**base, **tests, "tests/conftest.py": conftest.format(7)},
        {**head, "tests/conftest.py": conftest.format(8)},
    )
    run = project.against()
    assert run.status == OK
    assert "it measures another workload (prompt_tokens=7," in run.text
    assert read(log)["base"].parts[-3:] == ("project", "src", "engine.py")
    assert read(log)["base"].is_relative_to(project.temporary)


def test_a_path_file_that_leads_into_head_is_that_of_an_editable_install(tmp_path: Path, log: Path) -> None:
    base, head = both("lib/engine.py")
    project = Project(tmp_path / "project", {**base, "test_chat.py": HEAD + TURN}, head)
    site = tmp_path / "site"
    site.mkdir()
    (site / "project.pth").write_text(str(project.folder / "lib"))
    (site / "sitecustomize.py").write_text(f"import site\nsite.addsitedir({str(site)!r})\n")
    run = project.against(PYTHONPATH=os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    assert_compared(project, run)
    assert read(log)["base"].is_relative_to(project.temporary)
    assert read(log)["head"] == project.folder / "lib" / "engine.py"


def test_code_of_head_that_base_has_loaded_is_an_error_that_names_it(tmp_path: Path, log: Path) -> None:
    lib = tmp_path / "project" / "lib"
    absolute = f"import sys\nsys.path.insert(0, {str(lib)!r})\n"
    base, head = both("lib/engine.py")
    project = Project(tmp_path / "project", {**base, "conftest.py": absolute, "test_chat.py": HEAD + TURN}, head)
    run = project.against()
    assert run.status == FAILED
    told = f"base would not run base's code: engine is head's, {lib / 'engine.py'}: an absolute entry of sys.path"
    assert told in run.text
    assert "measured:" not in run.text
    assert project.left() == []


def test_code_of_head_that_base_loads_in_a_test_fails_that_test(tmp_path: Path) -> None:
    lib = tmp_path / "project" / "lib"
    late = TURN.replace("    llm", f"    import sys\n    sys.path.insert(0, {str(lib)!r})\n    import late\n    llm")
    project = Project(tmp_path / "project", {"lib/late.py": "", "test_chat.py": HEAD + late}, {})
    run = project.against()
    assert run.status == FAILED
    run.has(f"FAILED test_chat.py::test_turn - *base would not run base's code: late is head's, {lib / 'late.py'}: *")


# What base needs


def test_a_setup_makes_what_git_does_not_hold_and_python_is_bases_own(tmp_path: Path, log: Path) -> None:
    setup = (
        "mkdir environment && echo 'milliseconds = 2' > generated.py && "
        f'printf \'#!/bin/sh\\necho python of base >> "$LOG"\\nexec {sys.executable} "$@"\\n\' > environment/python '
        "&& chmod +x environment/python"
    )
    ini = f"{INI}llmperf_base_setup = {setup}\nllmperf_base_python = environment/python\n"
    files = {
        "pytest.ini": ini,
        ".gitignore": "generated.py\n",
        "engine.py": logged("code of") + "\nfrom generated import milliseconds\n",
        "test_chat.py": HEAD + TURN,
    }
    project = Project(tmp_path / "project", files, {})
    (project.folder / "generated.py").write_text("milliseconds = 2\n")
    assert_compared(project, project.against())
    assert "python of base" in log.read_text()
    assert not (project.folder / "environment").exists()


def test_a_model_that_git_ignores_is_the_one_of_head(tmp_path: Path, saved_model: Path) -> None:
    model = """
@llm_perf(model="models/small", prompt_tokens=4, output_tokens=4)
def test_turn(llm):
    llm.measure()
"""
    project = Project(tmp_path / "project", {".gitignore": "models/\n", "test_chat.py": HEAD + model}, {})
    shutil.copytree(saved_model, project.folder / "models" / "small")
    assert_compared(project, project.against())


def test_a_setup_that_fails_fails_the_run_and_is_named(tmp_path: Path) -> None:
    ini = f"{INI}llmperf_base_setup = echo 'no such wheel' >&2; exit 7\n"
    project = Project(tmp_path / "project", {"pytest.ini": ini, "test_chat.py": HEAD + TURN})
    run = project.against()
    assert run.status == FAILED
    assert "llmperf_base_setup = echo 'no such wheel' >&2; exit 7: ended with status 7 in " in run.text
    run.has("*no such wheel*")
    assert project.left() == []


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ("test_chat.py", "it cannot collect test_chat.py: ModuleNotFoundError: No module named 'of_base_alone'"),
        ("conftest.py", "ModuleNotFoundError: No module named 'of_base_alone'"),
    ],
)
def test_a_base_that_cannot_import_fails_the_run_and_says_what_gives_it_an_environment(
    tmp_path: Path, broken: str, error: str
) -> None:
    good = {"conftest.py": "", "test_chat.py": HEAD + TURN}
    project = Project(tmp_path / "project", {**good, broken: f"import of_base_alone\n{good[broken]}"}, good)
    run = project.against()
    assert run.status == FAILED
    run.has(f"*base {project.short()} *{error}*llmperf_base_setup (such as `uv sync`) and llmperf_base_python*")
    assert project.left() == []
    assert project.against("--llmperf-base-tests=head").status == OK, "head's tests do without it"


def test_an_option_that_base_does_not_know_is_named_and_heads_tests_bring_it_along(tmp_path: Path) -> None:
    conftest = "def pytest_addoption(parser):\n    parser.addoption('--size')\n"
    project = Project(tmp_path / "project", {"test_chat.py": HEAD + TURN}, {"conftest.py": conftest})
    run = project.against("--size=8")
    assert run.status == FAILED
    run.has(f"*base {project.short()} *: error: unrecognized arguments: --size=8; *--llmperf-base-tests=head*")
    assert_compared(project, project.against("--size=8", "--llmperf-base-tests=head"))
