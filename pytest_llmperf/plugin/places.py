"""Where a mark stands in the source: asked only when it makes no sense."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def place_of_mark(mark: pytest.Mark, owner: Any) -> tuple[Path, int] | None:
    """File and line of the call `llm_perf(…)` that made a mark, as far as the source tells.

    Args:
        owner: the function, class or module that carries the mark.
    """
    try:
        path = inspect.getsourcefile(owner)
        module = ast.parse(Path(path or "").read_text(encoding="utf-8"))
        _, first = inspect.getsourcelines(owner)
    except (TypeError, OSError, SyntaxError):
        return None
    calls = [call for part in _marked_parts(module, owner, first) for call in _calls(part)]
    written = next((call for call in calls if _made(call, mark)), calls[0] if calls else None)
    return Path(path or ""), written.lineno if written is not None else max(first, 1)


def _marked_parts(module: ast.Module, owner: Any, first: int) -> Iterator[ast.AST]:
    """The parts of the source that can mark the owner: its decorators, nearest first, and its `pytestmark`."""
    node: ast.AST | None = module
    if not inspect.ismodule(owner):
        node = next((node for node in ast.walk(module) if _first_line(node) == first), None)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield from reversed(node.decorator_list)
    if isinstance(node, (ast.Module, ast.ClassDef)):
        yield from (part for part in node.body if _assigns_pytestmark(part))


def _first_line(node: ast.AST) -> int | None:
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return None
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _assigns_pytestmark(node: ast.AST) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in targets)


def _calls(part: ast.AST) -> list[ast.Call]:
    named = [node for node in ast.walk(part) if isinstance(node, ast.Call) and _name(node.func) == "llm_perf"]
    return sorted(named, key=lambda call: (call.lineno, call.col_offset))


def _name(function: ast.expr) -> str | None:
    return getattr(function, "attr", getattr(function, "id", None))


def _made(call: ast.Call, mark: pytest.Mark) -> bool:
    """Whether the call can have made the mark: as many limits, the same keywords, the same literal values."""
    if len(call.args) != len(mark.args) or {word.arg for word in call.keywords} != set(mark.kwargs):
        return False
    pairs = [(word.value, mark.kwargs[word.arg]) for word in call.keywords if word.arg]
    pairs += list(zip(call.args, mark.args, strict=True))
    # Only like is compared with like: a metric's == raises, and an array's is no truth value.
    told = [(node.value, value) for node, value in pairs if isinstance(node, ast.Constant)]
    return all(type(written) is type(value) and written == value for written, value in told)
