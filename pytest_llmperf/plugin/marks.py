"""From pytest's marks to settings: whose mark is nearest, where it stands, which tests share a target."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.errors import UsageError
from pytest_llmperf.model import LOADS, Workload
from pytest_llmperf.plugin.places import place_of_mark
from pytest_llmperf.settings import Level, Settings, check, merge
from pytest_llmperf.targets import Module, Pretrained, RandomWeights, Reference, Stream

TARGET = pytest.StashKey[Reference | None]()
"""The target that an item's marks name, for putting items together."""


def checked_settings(item: pytest.Item) -> Settings:
    """The settings of a test as its marks alone give them.

    Raises:
        UsageError: with the place of the mark at fault.
    """
    found = list(_marks_nearest_first(item))
    levels = [_checked(item, mark, owner) for mark, owner in found]
    try:
        settings = merge(levels)
    except UsageError as error:
        # What can be wrong only together is a load that contradicts itself, or a load or GPUs that the target has not.
        mark, owner = next((one for one in found if {*LOADS, "workload", "gpus"} & set(one[0].kwargs)), found[0])
        raise UsageError(f"{_place(item, mark, owner)}: @llm_perf of {item.name}: {error}") from None
    item.stash[TARGET] = settings.target
    return settings


def levels_of(item: pytest.Item) -> list[Level]:
    """What each mark of a test says, nearest first.

    Raises:
        UsageError: with the place of the mark at fault.
    """
    return [_checked(item, mark, owner) for mark, owner in _marks_nearest_first(item)]


def _checked(item: pytest.Item, mark: pytest.Mark, owner: object) -> Level:
    try:
        return check(mark.args, mark.kwargs)
    except UsageError as error:
        raise UsageError(f"{_place(item, mark, owner)}: @llm_perf of {item.name}: {error}") from None


def _marks_nearest_first(item: pytest.Item) -> Iterator[tuple[pytest.Mark, object]]:
    """The test's llm_perf marks with who carries them: `pytest.param` before the function, it before its class, a
    class before its bases, the module last.

    (`iter_markers` has function decorators before parameters, and base classes before the class.)
    """
    function = getattr(item, "function", None)
    of_parameters = _llm_perf(getattr(getattr(item, "callspec", None), "marks", ()))
    own = [mark for mark in _llm_perf(item.own_markers) if not _contains(of_parameters, mark)]
    yield from ((mark, function) for mark in [*of_parameters, *own])
    for node in reversed(item.listchain()[:-1]):
        marks = _llm_perf(node.own_markers)
        owner = getattr(node, "obj", None)
        if inspect.isclass(owner):
            for cls in owner.__mro__:
                written = _llm_perf(cls.__dict__.get("pytestmark", ()))
                yield from ((mark, cls) for mark in written)
                marks = [mark for mark in marks if not _contains(written, mark)]
        yield from ((mark, owner) for mark in marks)


def _llm_perf(marks: Any) -> list[pytest.Mark]:
    return [mark for mark in _as_marks(marks) if mark.name == "llm_perf"]


def _as_marks(marks: Any) -> list[pytest.Mark]:
    listed = marks if isinstance(marks, (list, tuple)) else [marks]
    return [mark if isinstance(mark, pytest.Mark) else mark.mark for mark in listed]


def _contains(marks: Sequence[pytest.Mark], wanted: pytest.Mark) -> bool:
    return any(mark is wanted for mark in marks)  # marks cannot be compared: a limit's == is no truth value


def _place(item: pytest.Item, mark: pytest.Mark, owner: object) -> str:
    """`path:line` of a mark, as near as the source tells."""
    path, line, _ = item.reportinfo()
    found = place_of_mark(mark, owner) or (Path(path), (line or 0) + 1)
    return f"{_relative(found[0], item)}:{found[1]}"


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


def parameters_of(item: pytest.Item) -> dict[str, str | int | float | bool | None]:
    """What a test is parametrized by, as plain data."""
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return {}
    return {name: _plainly(value, f"{name}{callspec.indices.get(name, 0)}") for name, value in callspec.params.items()}


def _plainly(value: Any, otherwise: str) -> str | int | float | bool | None:
    """A parameter itself where JSON can hold it, else by a name that is the same in every run, as pytest's ids are."""
    if value is None or isinstance(value, (str, int, bool)) or (isinstance(value, float) and math.isfinite(value)):
        return value.value if isinstance(value, Enum) else value
    return parameter_id(value) or str(getattr(value, "__name__", otherwise))


def parameter_id(value: object) -> str | None:
    """The id of a target or workload among a test's parameters."""
    if isinstance(value, (Pretrained, RandomWeights, Stream, Module)):
        return value.id
    if isinstance(value, Workload):
        batch = f"-b{value.batch_size}" if value.batch_size > 1 else ""
        return f"{value.prompt_tokens}-{value.output_tokens}{batch}"
    return None
