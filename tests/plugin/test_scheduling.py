"""Which worker gets which test: the scheduler, driven by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("xdist")

from xdist.scheduler import LoadScheduling

from pytest_llmperf.plugin.scheduling import ByTarget


class Node:
    """A worker that is told what to run; like xdist's, it starts a test only when it knows the next or that is all."""

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.sent: list[int] = []
        self.done: list[int] = []
        self.shutting_down = False

    def send_runtest_some(self, indices: list[int]) -> None:
        self.sent += indices

    def shutdown(self) -> None:
        self.shutting_down = True

    @property
    def can_run(self) -> bool:
        return len(self.sent) > (0 if self.shutting_down else 1)


class Config:
    def __init__(self, workers: int) -> None:
        self._workers = workers

    def getvalue(self, name: str) -> list[str]:
        assert name == "tx"
        return [f"{self._workers}*popen"]

    def getoption(self, name: str) -> None:
        assert name == "maxschedchunk"


def log(*words: object) -> None:
    pass


log.loadsched = log  # type: ignore[attr-defined]


def started(scheduler: Any, workers: int, tests: int) -> list[Node]:
    nodes = [Node(f"gw{number}") for number in range(workers)]
    for node in nodes:
        scheduler.add_node(node)
    for node in nodes:
        scheduler.add_node_collection(node, [str(index) for index in range(tests)])
    scheduler.schedule()
    return nodes


def run(scheduler: Any, nodes: list[Node]) -> None:
    """As DSession does: every test that can run does, a worker at a time, until none can."""
    while any(node.can_run for node in nodes) or not all(node.shutting_down for node in nodes):
        stuck = not any(node.can_run for node in nodes)
        assert not stuck or scheduler.tests_finished, "a test waits for ever"
        for node in nodes:
            if stuck:
                node.shutdown()
            if node.can_run:
                index = node.sent.pop(0)
                node.done.append(index)
                scheduler.mark_test_complete(node, index)


def by_target(folder: Path, workers: int, groups: dict[str, int] | None) -> ByTarget:
    file = folder / "groups.json"
    file.unlink(missing_ok=True)
    if groups:
        file.write_text(json.dumps(groups))
    return ByTarget(Config(workers), log, file)  # type: ignore[arg-type]


@given(workers=st.integers(1, 5), targets=st.lists(st.none() | st.integers(0, 4), min_size=0, max_size=60))
def test_each_test_runs_once_and_those_of_a_target_on_one_worker(
    tmp_path_factory: pytest.TempPathFactory, workers: int, targets: list[int | None]
) -> None:
    shared = {target for target in targets if target is not None and targets.count(target) > 1}
    groups = {str(index): target for index, target in enumerate(targets) if target in shared}
    scheduler = by_target(tmp_path_factory.getbasetemp(), workers, groups)
    nodes = started(scheduler, workers, len(targets))
    if targets:
        run(scheduler, nodes)
    assert sorted(index for node in nodes for index in node.done) == list(range(len(targets)))
    for target in set(groups.values()):
        assert len([node for node in nodes if any(targets[index] == target for index in node.done)]) == 1


@given(workers=st.integers(1, 5), tests=st.integers(0, 200))
def test_without_shared_targets_it_hands_out_what_load_does(
    tmp_path_factory: pytest.TempPathFactory, workers: int, tests: int
) -> None:
    ours = started(by_target(tmp_path_factory.getbasetemp(), workers, None), workers, tests)
    plain = started(LoadScheduling(Config(workers), log), workers, tests)
    assert [node.sent for node in ours] == [node.sent for node in plain]


def test_targets_that_stand_together_go_to_different_workers(tmp_path: Path) -> None:
    groups = {str(index): index // 10 for index in range(40)}
    scheduler = by_target(tmp_path, 4, groups)
    nodes = started(scheduler, 4, 1000)
    assert [{index // 10 for index in node.sent if index < 40} for node in nodes] == [{0}, {1}, {2}, {3}]
    assert len({len(node.sent) for node in nodes}) == 1


def test_what_a_crash_left_of_a_target_does_not_wait_for_ever(tmp_path: Path) -> None:
    scheduler = by_target(tmp_path, 1, {"0": 0, "1": 0, "2": 1, "3": 1, "4": 1})
    (first,) = started(scheduler, 1, 5)
    assert first.sent == [0, 1]
    scheduler.remove_node(first)
    second = Node("gw1")
    scheduler.add_node(second)
    scheduler.add_node_collection(second, scheduler.collection)
    scheduler.schedule()
    run(scheduler, [second])
    assert sorted(second.done) == [1, 2, 3, 4]
