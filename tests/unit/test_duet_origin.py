"""Where base looks for the project's code, and the proof that it found base's."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import pytest

from pytest_llmperf.duet.origin import import_roots, strangers
from pytest_llmperf.duet.worktree import Worktree
from tests.repositories import write

needs_links = pytest.mark.skipif(os.name != "posix", reason="links need rights there")


@pytest.fixture
def worktree(tmp_path):
    """Two folders; which commits they hold does not matter here."""
    for name in ("head", "base/head", "venv/site-packages"):
        (tmp_path / name).mkdir(parents=True)
    return Worktree("0" * 40, tmp_path / "head", tmp_path / "base" / "head")


def both(worktree, *files):
    """The same files in head and in base."""
    for top in (worktree.head, worktree.root):
        write(top, dict.fromkeys(files, ""))


def loaded(*files, **folders):
    """Modules as they are once imported: by their files, namespace packages by their folders."""
    modules = {}
    for file in files:
        name = file.parent.name if file.name == "__init__.py" else file.name.partition(".")[0]
        modules[name] = ModuleType(name)
        modules[name].__file__ = str(file)
        if file.name == "__init__.py":
            modules[name].__path__ = [str(file.parent)]
    for name, places in folders.items():
        modules[name] = ModuleType(name)
        modules[name].__path__ = [str(place) for place in places]
    return modules


def roots(worktree, path=(), modules=None):
    """Relative to base's top."""
    found = import_roots(worktree, [str(entry) for entry in path], modules or {})
    return [folder.relative_to(worktree.root).as_posix() for folder in found]


def told(worktree, modules, path=()):
    return strangers(worktree, import_roots(worktree, [], {}), [str(entry) for entry in path], modules)


# Where base looks


def test_flat_layout_is_found_by_the_top(worktree):
    both(worktree, "pkg/__init__.py")
    assert roots(worktree) == ["."]


def test_src_layout_is_found_by_its_folder_before_the_top(worktree):
    both(worktree, "src/pkg/__init__.py")
    assert roots(worktree) == ["src", "."]


def test_entries_of_sys_path_in_head_come_first_in_their_order_and_those_elsewhere_not(worktree, tmp_path, monkeypatch):
    both(worktree, "lib/a.py", "tests/unit/b.py", "src/c.py")
    write(worktree.head, {"new/d.py": ""})
    monkeypatch.chdir(worktree.head / "tests")
    head = worktree.head
    path = ["", head, head / "tests/unit", head / "new", head / "lib/a.py", tmp_path, head / "lib", head / "tests/unit"]
    assert roots(worktree, path) == ["tests", "tests/unit", "lib", "src", "."]


def test_what_an_import_hook_found_shows_where_it_lies(worktree, tmp_path):
    both(worktree, "one/python/pkg/__init__.py", "two/single.py", "three/space/part/__init__.py")
    head = worktree.head
    modules = loaded(
        head / "one/python/pkg/__init__.py",
        head / "two/single.py",
        tmp_path / "venv/site-packages/torch/__init__.py",
        space=[head / "three/space", tmp_path / "venv/site-packages/space"],
    )
    modules["pkg.inner"] = loaded(head / "elsewhere/inner.py")["inner"]
    assert roots(worktree, (), modules) == ["one/python", "two", "three", "."]


@needs_links
def test_head_is_known_through_links(worktree, tmp_path):
    both(worktree, "lib/pkg/__init__.py", "real/single.py")
    (tmp_path / "way").symlink_to(worktree.head)
    (worktree.head / "build").mkdir()
    (worktree.head / "build" / "single.py").symlink_to(worktree.head / "real" / "single.py")
    modules = loaded(worktree.head / "build" / "single.py")
    assert roots(worktree, [tmp_path / "way" / "lib"], modules) == ["lib", "real", "."]


@pytest.mark.parametrize("environment", [".venv/lib", "env/Lib/site-packages", "tools/dist-packages", "conda/lib"])
def test_an_environment_inside_head_is_no_part_of_the_project(worktree, environment, monkeypatch):
    both(worktree, f"{environment}/dep/__init__.py", "pyvenv.cfg", ".venv/pyvenv.cfg", "lib/own/__init__.py")
    monkeypatch.setattr("pytest_llmperf.duet.origin._INTERPRETER", {worktree.head / "conda"})
    place = worktree.head / environment
    own = worktree.head / "lib"
    modules = loaded(place / "dep" / "__init__.py", own / "own" / "__init__.py")
    assert roots(worktree, [place, own], modules) == ["lib", "."]
    assert [message.split()[0] for message in told(worktree, modules)] == ["own"]


def test_modules_that_are_odd_disturb_nothing(worktree, monkeypatch):
    class Lazy(ModuleType):
        def __getattr__(self, name):
            raise AssertionError("asked a lazy module")

    monkeypatch.chdir(worktree.head)
    write(worktree.head, {"_ops.py": ""})
    ops, empty = ModuleType("ops"), ModuleType("empty")
    ops.__file__, empty.__file__ = "_ops.py", None
    modules = {"lazy": Lazy("lazy"), "none": None, "no module": object(), "torch.ops": ops, "ops": ops, "empty": empty}
    assert roots(worktree, (), modules) == ["."]
    assert told(worktree, modules) == []


# The proof


def test_base_that_runs_its_own_code_has_no_strangers(worktree, tmp_path):
    both(worktree, "src/pkg/__init__.py", "tests/__init__.py")
    root, packages = worktree.root, tmp_path / "venv/site-packages"
    modules = loaded(
        root / "src/pkg/__init__.py",
        packages / "torch/__init__.py",
        packages / "tests/__init__.py",
        space=[root / "src/space", worktree.head / "src/space"],
    )
    assert told(worktree, modules) == []


def test_a_module_that_an_import_hook_found_in_head_is_named_with_the_fix(worktree):
    both(worktree, "src/pkg/__init__.py")
    file = worktree.head / "src/pkg/__init__.py"
    (message,) = told(worktree, loaded(file))
    assert message.startswith(f"pkg is head's, {file}: the import hook of an editable install leads there; ")
    assert "llmperf_base_setup (such as `uv sync`) and llmperf_base_python" in message


def test_a_module_that_an_absolute_pythonpath_found_in_head_says_to_write_it_relative(worktree):
    both(worktree, "src/pkg/__init__.py")
    (message,) = told(worktree, loaded(worktree.head / "src/pkg/__init__.py"), [worktree.head / "src"])
    assert message.endswith("an absolute entry of sys.path leads there; if it is of ini pythonpath, write it relative")


def test_a_compiled_extension_of_heads_says_to_build_bases(worktree):
    (message,) = told(worktree, loaded(worktree.head / f"pkg/_kernels{EXTENSION_SUFFIXES[0]}"))
    assert "_kernels is head's" in message
    assert "a compiled extension; build base's by ini llmperf_base_setup" in message


def test_a_module_that_base_lacks_says_so(worktree):
    write(worktree.head, {"new.py": ""})
    (message,) = told(worktree, loaded(worktree.head / "new.py"), [worktree.head])
    assert (
        "base has no such file; if it is one that is generated, have base's made by ini llmperf_base_setup" in message
    )


def test_a_namespace_package_is_told_by_its_folders(worktree):
    (message,) = told(worktree, loaded(space=[worktree.head / "src" / "space"]))
    assert message.startswith(f"space is head's, {worktree.head / 'src' / 'space'}: ")


def test_an_installed_copy_is_told_and_what_another_distribution_adds_is_not(worktree, tmp_path):
    both(worktree, "src/pkg/__init__.py", "src/pkg/inner.py", "single.py", "docs/__init__.py", "data/x.txt")
    packages = tmp_path / "venv/site-packages"
    copies = [packages / name for name in ("pkg/__init__.py", "single.py", "docs/__init__.py", "data/__init__.py")]
    modules = loaded(*copies)
    modules |= {f"pkg.{name}": loaded(packages / f"pkg/{name}.py")[name] for name in ("inner", "added")}
    messages = told(worktree, modules)
    assert [message.split()[0] for message in messages] == ["pkg", "single", "pkg.inner"]
    assert messages[0].startswith(
        f"pkg is not base's but {copies[0]}, an installed copy: install the project in editable"
    )


def test_the_tool_is_nobodys_even_where_it_is_the_project(worktree, tmp_path):
    both(worktree, "pytest_llmperf/__init__.py")
    for place in (worktree.head, tmp_path / "venv/site-packages"):
        modules = loaded(place / "pytest_llmperf/__init__.py")
        modules["pytest_llmperf.units"] = loaded(place / "pytest_llmperf/units.py")["units"]
        assert told(worktree, modules) == []


@needs_links
def test_base_is_known_through_links(worktree, tmp_path):
    both(worktree, "pkg/__init__.py")
    (tmp_path / "way").symlink_to(worktree.root)
    (tmp_path / "to head").symlink_to(worktree.head)
    assert told(worktree, loaded(tmp_path / "way" / "pkg/__init__.py")) == []
    assert len(told(worktree, loaded(tmp_path / "to head" / "pkg/__init__.py"))) == 1


def test_base_inside_head_is_not_taken_for_head(tmp_path):
    worktree = Worktree("0" * 40, tmp_path, tmp_path / "tmp" / "base")
    write(worktree.root, {"pkg/__init__.py": ""})
    assert told(worktree, loaded(worktree.root / "pkg/__init__.py")) == []


# As setuptools and hatchling leave an editable install

FINDER = """
import sys
from importlib.machinery import PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path

MAPPING = {mapping!r}

class _EditableFinder:
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname in MAPPING:
            init = Path(MAPPING[fullname], "__init__.py")
            return spec_from_file_location(fullname, init)
        parent, _, child = fullname.rpartition(".")
        if parent and parent in MAPPING:
            return PathFinder.find_spec(fullname, path=[MAPPING[parent]])

def install():
    sys.meta_path.{place}
"""
"""What setuptools writes into site-packages, shortened; other builders put theirs in front."""
ASK = """
import importlib, site, sys
from pathlib import Path
site.addsitedir({site!r})
import pkg.inner
from pytest_llmperf.duet.origin import import_roots, strangers
from pytest_llmperf.duet.worktree import Worktree
worktree = Worktree("0" * 40, Path({head!r}), Path({root!r}))
roots = import_roots(worktree)
print([root.relative_to(worktree.root).as_posix() for root in roots])
print([message.split()[0] for message in strangers(worktree, roots)])
"""


@pytest.mark.parametrize("layout", ["", "src", "python/lib"])
@pytest.mark.parametrize("install", ["finder", "finder in front", ".pth"])
def test_an_editable_install_of_head_runs_bases_code_in_base_or_is_told(worktree, tmp_path, layout, install):
    both(worktree, "pkg/__init__.py" if not layout else f"{layout}/pkg/__init__.py", f"{layout or '.'}/pkg/inner.py")
    place = worktree.head / layout
    finder = FINDER.format(
        mapping={"pkg": str(place / "pkg")},
        place="insert(0, _EditableFinder)" if install == "finder in front" else "append(_EditableFinder)",
    )
    lines = str(place) if install == ".pth" else "import __editable___pkg_finder; __editable___pkg_finder.install()"
    site = tmp_path / "venv/site-packages"
    write(site, {"__editable___pkg_finder.py": finder, "__editable__.pkg.pth": lines + "\n"})

    def ask(*path):
        code = ASK.format(site=str(site), head=str(worktree.head), root=str(worktree.root))
        here = str(Path(__file__).parents[2])
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, here]))}
        run = subprocess.run(
            [sys.executable, "-P", "-c", code] if sys.version_info >= (3, 11) else [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        )
        return run.stdout.splitlines()

    in_head, _ = ask()
    found = [name for name in (layout, ".") if name]
    assert in_head == repr(found)
    _, in_base = ask(*(worktree.root / name for name in found))
    assert in_base == repr(["pkg", "pkg.inner"] if install == "finder in front" else [])
