"""Where code comes from: what base must look for first, and the proof that it found base's code and no other."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.machinery import EXTENSION_SUFFIXES, all_suffixes
from pathlib import Path
from types import ModuleType

from pytest_llmperf.duet.worktree import Worktree

_NOT_THE_PROJECT = {"tests", "test", "conftest", "setup", "docs", *sys.stdlib_module_names}
_TOOL = __name__.partition(".")[0]
_INTERPRETER = {Path(place).resolve() for place in (sys.prefix, sys.base_prefix, Path(os.__file__).parent)}
_SET_UP = "ini llmperf_base_setup (such as `uv sync`) and llmperf_base_python"


def import_roots(
    worktree: Worktree, path: Sequence[str] = sys.path, modules: Mapping[str, ModuleType] = sys.modules
) -> list[Path]:
    """The folders to put first on base's PYTHONPATH: those that head looks in, in its order; src and the top last.

    An editable install may find a package without any entry of sys.path; what is loaded shows where it lies.
    """
    entries = [Path(entry).resolve() for entry in path]
    loaded = [
        (file.parent if file.name.startswith("__init__.") else file).parent
        for name, module in _modules(modules)
        if "." not in name
        for file in _files(module)
    ]
    own = [folder.relative_to(worktree.head) for folder in (*entries, *loaded) if is_heads(worktree, folder)]
    ordered = dict.fromkeys([*(each for each in own if each != Path()), Path("src"), Path()])
    return [folder for inside in ordered if (folder := worktree.root / inside).is_dir()]


def strangers(
    worktree: Worktree,
    roots: Sequence[Path],
    path: Sequence[str] = sys.path,
    modules: Mapping[str, ModuleType] = sys.modules,
) -> list[str]:
    """Asked in the base process: one message for each loaded module that should have come from base and did not.

    Args:
        roots: what base was to look in first.
    """
    entries = [folder for folder in (Path(entry).resolve() for entry in path) if is_heads(worktree, folder)]
    names = {name for root in roots for name in _names(root)} - _NOT_THE_PROJECT - {_TOOL}
    found = []
    for name, module in _modules(modules):
        files = _files(module)
        if name.partition(".")[0] == _TOOL or any(file.is_relative_to(worktree.root) for file in files):
            continue
        for place in files:
            if is_heads(worktree, place):
                found.append(f"{name} is head's, {place}: {_why(worktree, place, entries)}")
            elif name.partition(".")[0] in names and _has(roots, name):
                found.append(
                    f"{name} is not base's but {place}, an installed copy: "
                    f"install the project in editable form, or give base an environment of its own by {_SET_UP}"
                )
    return found


def _why(worktree: Worktree, place: Path, entries: Sequence[Path]) -> str:
    if place.name.endswith(tuple(EXTENSION_SUFFIXES)):
        return f"a compiled extension; build base's by {_SET_UP}"
    if not (worktree.root / place.relative_to(worktree.head)).exists():
        return f"base has no such file; if it is one that is generated, have base's made by {_SET_UP}"
    if any(place.is_relative_to(entry) for entry in entries):
        return "an absolute entry of sys.path leads there; if it is of ini pythonpath, write it relative"
    return f"the import hook of an editable install leads there; give base an environment of its own by {_SET_UP}"


def _modules(modules: Mapping[str, ModuleType]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """By name, what a module holds; asking a lazy one for an attribute could import it."""
    for name, module in list(modules.items()):
        if isinstance(module, ModuleType) and name != "__main__":
            yield name, vars(module)


def _files(module: Mapping[str, object]) -> list[Path]:
    """Of a namespace package its folders. Not what is no real place: torch.ops says `_ops.py`."""
    file, folders = module.get("__file__"), module.get("__path__")
    named = [file] if file else folders if isinstance(folders, Iterable) else []
    return [Path(name).resolve() for name in named if isinstance(name, str) and Path(name).is_absolute()]


def is_heads(worktree: Worktree, place: Path) -> bool:
    """Whether a place is in head's checkout, and not in an environment that lies there."""
    if not place.is_relative_to(worktree.head):
        return False
    if {"site-packages", "dist-packages"} & set(place.relative_to(worktree.head).parts):
        return False
    below_top = [folder for folder in (place, *place.parents) if folder.is_relative_to(worktree.head)][:-1]
    return not any((folder / "pyvenv.cfg").exists() or folder in _INTERPRETER for folder in below_top)


def _names(root: Path) -> Iterator[str]:
    """The modules and packages that lie in a folder; folders without an `__init__` are many things."""
    for entry in root.iterdir():
        suffix = next((suffix for suffix in all_suffixes() if entry.name.endswith(suffix)), "")
        if suffix or any((entry / f"__init__{each}").exists() for each in all_suffixes()):
            yield entry.name.partition(".")[0]


def _has(roots: Sequence[Path], name: str) -> bool:
    """Whether base has a module of that name: another distribution may add to a package."""
    inside = Path(*name.split("."))
    return any(
        (root / f"{inside}{suffix}").exists() or (root / inside / f"__init__{suffix}").exists()
        for root in roots
        for suffix in all_suffixes()
    )
