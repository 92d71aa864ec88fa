"""What is kept still while a round is taken, and put back afterwards, whatever happens."""

from __future__ import annotations

import gc
import sys

import pytest
import torch

from pytest_llmperf.collector import collector_quiet
from pytest_llmperf.measure.quiet import torch_threads


@pytest.fixture(autouse=True)
def _as_found():
    enabled, threads = gc.isenabled(), torch.get_num_threads()
    yield
    (gc.enable if enabled else gc.disable)()
    torch.set_num_threads(threads)


@pytest.mark.parametrize("before", [True, False])
def test_the_collector_rests_inside_and_is_then_as_before(before):
    (gc.enable if before else gc.disable)()
    with collector_quiet():
        assert not gc.isenabled()
    assert gc.isenabled() is before


@pytest.mark.parametrize("before", [True, False])
def test_the_collector_is_put_back_after_an_error(before):
    (gc.enable if before else gc.disable)()
    with pytest.raises(KeyError), collector_quiet():
        raise KeyError
    assert gc.isenabled() is before


def test_quiet_within_quiet_ends_with_the_outer():
    gc.enable()
    with collector_quiet():
        with collector_quiet():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_are_set_inside_and_put_back(count):
    torch.set_num_threads(2)
    with torch_threads(count):
        assert torch.get_num_threads() == count
    assert torch.get_num_threads() == 2


def test_threads_are_put_back_after_an_error():
    torch.set_num_threads(2)
    with pytest.raises(KeyError), torch_threads(1):
        raise KeyError
    assert torch.get_num_threads() == 2


def test_threads_are_left_alone_where_none_are_asked_for():
    torch.set_num_threads(2)
    with torch_threads(None):
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
    assert torch.get_num_threads() == 1


def test_a_process_without_torch_does_not_import_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    with torch_threads(1):
        assert "torch" not in sys.modules
