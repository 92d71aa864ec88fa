"""From pytest's marks to settings: whose mark is nearest, where it stands, which tests share a target."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.errors import UsageError
from pytest_llmperf.model import Workload
from pytest_llmperf.settings import Level, Settings, check, merge
from pytest_llmperf.targets import Module, Pretrained, RandomWeights, Reference, Stream

TARGET = pytest.StashKey[Reference | None]()
"""The target that an item's marks name, for putting items together."""


@dataclass(frozen=True)
class _Found:
    """A mark, the object that carries it, and which of that object's llm_perf marks it is, nearest first."""

    mark: pytest.Mark
    owner: Any
    number: int


def checked_settings(item: pytest.Item) -> Settings:
    """The settings of a test as its marks alone give them.

    Raises:
        UsageError: with the place of the mark at fault.
    """
    levels = levels_of(item)
    try:
        settings = merge(levels)
    except UsageError as error:
        raise UsageError(f"{_place_of(item)}: {item.name}: {error}") from None
    item.stash[TARGET] = settings.target
    return settings


def levels_of(item: pytest.Item) -> list[Level]:
    """What each mark of a test says, nearest first.

    Raises:
        UsageError: with the place of the mark at fault.
    """
    levels = []
    for found in _marks_nearest_first(item):
        try:
            levels.append(check(found.mark.args, found.mark.kwargs))
        except UsageError as error:
            raise UsageError(f"{_line_of(item, found)}: @llm_perf of {item.name}: {error}") from None
    return levels


def _marks_nearest_first(item: pytest.Item) -> Iterator[_Found]:
    """`pytest.param` before the function, it before its class, a class before its bases, the module last.

    (`iter_markers` has function decorators before parameters, and base classes before the class.)
    """
    callspec = getattr(item, "callspec", None)
    of_parameters = _llm_perf(getattr(callspec, "marks", ()))
    function = getattr(item, "function", None)
    yield from (_Found(mark, function, number) for number, mark in enumerate(of_parameters))
    own = [mark for mark in _llm_perf(item.own_markers) if not _contains(of_parameters, mark)]
    yield from (_Found(mark, function, number) for number, mark in enumerate(own))
    for node in reversed(item.listchain()[:-1]):
        marks = _llm_perf(node.own_markers)
        owner = getattr(node, "obj", None)
        if inspect.isclass(owner):
            for cls in owner.__mro__:
                written = _llm_perf(_as_marks(cls.__dict__.get("pytestmark", ())))
                yield from (_Found(mark, cls, number) for number, mark in enumerate(written))
                marks = [mark for mark in marks if not _contains(written, mark)]
        yield from (_Found(mark, owner, number) for number, mark in enumerate(marks))


def _llm_perf(marks: Any) -> list[pytest.Mark]:
    return [mark for mark in _as_marks(marks) if mark.name == "llm_perf"]


def _as_marks(marks: Any) -> list[pytest.Mark]:
    listed = marks if isinstance(marks, (list, tuple)) else [marks]
    return [mark if isinstance(mark, pytest.Mark) else mark.mark for mark in listed]


def _contains(marks: Sequence[pytest.Mark], wanted: pytest.Mark) -> bool:
    return any(mark is wanted for mark in marks)  # marks cannot be compared: a limit's == is no truth value


def _line_of(item: pytest.Item, found: _Found) -> str:
    """`path:line` of the mark, as near as its source tells."""
    try:
        path = inspect.getsourcefile(found.owner) or str(item.path)
        lines, first = inspect.getsourcelines(found.owner)
    except (TypeError, OSError):
        return _place_of(item)
    if inspect.ismodule(found.owner):
        first = 1
    uses = [number for number, line in enumerate(lines) if "llm_perf" in line]
    nearest = uses[::-1] if not inspect.ismodule(found.owner) and len(uses) > found.number else uses
    offset = nearest[found.number] if len(nearest) > found.number else 0
    return f"{_relative(Path(path), item)}:{first + offset}"


def _place_of(item: pytest.Item) -> str:
    path, line, _ = item.reportinfo()
    return f"{_relative(Path(path), item)}:{(line or 0) + 1}"


def _relative(path: Path, item: pytest.Item) -> str:
    try:
        return str(path.relative_to(item.config.rootpath))
    except ValueError:
        return str(path)


def together_by_target(items: Sequence[pytest.Item], measuring: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The items with tests of one module or class that share a target together, otherwise in their order.

    Measuring items only change places with each other, and those under parametrized fixtures of a wider
    scope stay: pytest has ordered them so that the fixtures are set up once.
    """
    places: dict[Any, list[int]] = {}
    movable = {id(item) for item in measuring if not _has_wider_parameters(item)}
    for index, item in enumerate(items):
        if id(item) in movable:
            places.setdefault(item.parent, []).append(index)
    ordered = list(items)
    for indices in places.values():
        seen: list[Reference | None] = []
        for index in indices:
            if items[index].stash.get(TARGET, None) not in seen:
                seen.append(items[index].stash.get(TARGET, None))
        by_target = sorted(indices, key=lambda index: seen.index(items[index].stash.get(TARGET, None)))
        for place, source in zip(indices, by_target, strict=True):
            ordered[place] = items[source]
    return ordered


def _has_wider_parameters(item: pytest.Item) -> bool:
    scopes = getattr(getattr(item, "callspec", None), "_arg2scope", {})
    return any(scope.value != "function" for scope in scopes.values())


def parameter_id(value: object) -> str | None:
    """The id of a target or workload among a test's parameters."""
    if isinstance(value, (Pretrained, RandomWeights, Stream, Module)):
        return value.id
    if isinstance(value, Workload):
        batch = f"-b{value.batch_size}" if value.batch_size > 1 else ""
        return f"{value.prompt_tokens}-{value.output_tokens}{batch}"
    return None
