"""Which tests measure. Light: asked of every test of every run."""

from __future__ import annotations

import pytest

from pytest_llmperf.mark import VARIANT

FIXTURES = ("llm", "llmperf")


def measures(item: pytest.Item) -> bool:
    """Whether a test carries the mark itself or requests the fixture."""
    if any(mark.name == "llm_perf" for mark in item.own_markers):
        return True
    return any(name in FIXTURES and _is_ours(item, name) for name in getattr(item, "fixturenames", ()))


def key_of(item: pytest.Item) -> str:
    """The test's node id, without the `@group` that xdist appends under `--dist=loadgroup`."""
    if item.parent is not None and item.config.getoption("loadgroup", False) and item.get_closest_marker("xdist_group"):
        return f"{item.parent.nodeid}::{item.name}"
    return item.nodeid


def variant_of(item: pytest.Item) -> dict[str, str | int]:
    """Which of the variants of its test an item is, as fields of its results; empty where it is none."""
    callspec = getattr(item, "callspec", None)
    variant = callspec.params.get(VARIANT) if callspec is not None else None
    if callspec is None or not isinstance(variant, str):
        return {}
    return {"variant": variant, "variant_number": callspec.indices.get(VARIANT, 0)}


def hiding_fixture(item: pytest.Item) -> tuple[str, str] | None:
    """The name and place of a fixture that a test requests in the belief that it is ours."""
    for name in FIXTURES:
        if name in getattr(item, "fixturenames", ()) and not _is_ours(item, name):
            code = getattr(_definitions(item, name)[-1].func, "__code__", None)
            return name, f"{code.co_filename}:{code.co_firstlineno}" if code else "an unknown place"
    return None


def _is_ours(item: pytest.Item, name: str) -> bool:
    """Whether the fixture a test gets by this name is the plugin's, or one that overrides it and requests it."""
    for definition in reversed(_definitions(item, name)):
        if definition.func.__module__ == "pytest_llmperf.plugin":
            return True
        if name not in definition.argnames:
            return False
    return False


def _definitions(item: pytest.Item, name: str) -> list[pytest.FixtureDef[object]]:
    info = getattr(item, "_fixtureinfo", None)
    return list(info.name2fixturedefs.get(name, ())) if info is not None else []
