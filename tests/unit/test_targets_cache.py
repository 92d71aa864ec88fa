"""The session's targets: loaded once, given up in order of use where memory runs short."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_llmperf import ranks
from pytest_llmperf.errors import OutOfMemoryTargetError, TargetError
from pytest_llmperf.model import Unknown
from pytest_llmperf.targets import LoadOptions, Stream, random_weights, resolve
from pytest_llmperf.targets import cache as cache_module
from pytest_llmperf.targets.cache import HEADROOM, TargetCache
from pytest_llmperf.targets.device import Room
from tests.fakes import FakeClock, FakeDevice, FakeTarget
from tests.ranks import acting

MIB = 2**20
OPTIONS = LoadOptions()


class Machine(FakeDevice):
    """A device whose free memory is what its living targets leave."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.living: list[tuple[weakref.ref[FakeTarget], int]] = []

    def rooms(self) -> list[Room]:
        return [Room(self.name, 2**40, self.available_bytes(), {"live": MIB})]

    def available_bytes(self) -> int:
        return self.size - sum(size for target, size in self.living if target() is not None)

    def holds(self) -> list[str]:
        return sorted(target().id for target, _ in self.living if target() is not None)


@dataclass(frozen=True)
class Named:
    """A reference to a fake target of a given size."""

    id: str
    machine: Any = field(compare=False, repr=False)
    size: int | Unknown = 10 * MIB
    cacheable: bool = True
    in_process: bool = True
    errors: list[Exception] = field(default_factory=list, compare=False)
    """Raised by successive loads."""
    loads: list[LoadOptions] = field(default_factory=list, compare=False)

    def weights_estimate(self, options: LoadOptions) -> int | Unknown:
        return self.size

    def load(self, options: LoadOptions) -> FakeTarget:
        self.loads.append(options)
        if self.errors:
            raise self.errors.pop(0)
        target = FakeTarget(FakeClock(), id=self.id, device=self.machine)
        self.machine.living.append((weakref.ref(target), self.size if isinstance(self.size, int) else 0))
        return target


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect():
    """Garbage is collected in every memory pass: spare the collector all that was imported before."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def machine(monkeypatch):
    device = Machine(100 * MIB)
    monkeypatch.setattr(cache_module, "device_of", lambda name, gpus: device)
    return device


def test_a_target_is_loaded_once_for_equal_references(machine):
    cache, reference = TargetCache(), Named("a", machine)
    first, seconds = cache.load(reference, OPTIONS)
    second, again = cache.load(Named("a", machine), OPTIONS)
    assert second is first
    assert len(reference.loads) == 1
    assert seconds >= 0
    assert again == Unknown("the target was already loaded in this session")


@pytest.mark.parametrize(
    "other",
    [LoadOptions(dtype="bfloat16"), LoadOptions(load={"attn_implementation": "eager"})],
)
def test_other_load_options_are_another_target(machine, other):
    cache, reference = TargetCache(), Named("a", machine)
    first, _ = cache.load(reference, OPTIONS)
    second, seconds = cache.load(reference, other)
    assert second is not first
    assert not isinstance(seconds, Unknown)
    assert reference.loads == [OPTIONS, other]


def test_load_options_in_another_order_are_the_same_target(machine):
    cache, reference = TargetCache(), Named("a", machine)
    first, _ = cache.load(reference, LoadOptions(load={"a": 1, "b": [2]}))
    second, _ = cache.load(reference, LoadOptions(load={"b": [2], "a": 1}))
    assert second is first


def test_the_device_is_idle_when_the_load_has_been_timed(machine):
    TargetCache().load(Named("a", machine), OPTIONS)
    assert machine.calls == ["synchronize"]


def test_a_fresh_target_takes_the_place_of_the_one_at_hand(machine):
    cache, reference = TargetCache(), Named("a", machine)
    gone = weakref.ref(cache.load(reference, OPTIONS)[0])
    fresh, seconds = cache.load(reference, OPTIONS, fresh=True)
    gc.collect()
    assert gone() is None
    assert not isinstance(seconds, Unknown)
    assert cache.load(reference, OPTIONS)[0] is fresh


def test_a_fresh_target_needs_no_room_beside_the_one_it_replaces(machine):
    cache, reference = TargetCache(), Named("a", machine, size=60 * MIB)
    cache.load(reference, OPTIONS)
    cache.load(reference, OPTIONS, fresh=True)
    assert machine.holds() == ["a"]


def test_a_fresh_target_costs_no_other_its_place(machine):
    cache = TargetCache()
    b, a, c = (Named(name, machine, size=30 * MIB) for name in "bac")
    for reference in (b, a, c):
        cache.load(reference, OPTIONS)
    cache.load(a, OPTIONS, fresh=True)
    assert machine.holds() == ["a", "b", "c"]


def test_the_least_recently_used_target_gives_way_first(machine):
    cache = TargetCache()
    a, b, c = (Named(name, machine, size=30 * MIB) for name in "abc")
    for reference in (a, b, c):
        cache.load(reference, OPTIONS)
    cache.load(a, OPTIONS)  # used again: now b is the oldest
    cache.load(Named("d", machine, size=30 * MIB), OPTIONS)
    assert machine.holds() == ["a", "c", "d"]
    cache.load(Named("e", machine, size=30 * MIB), OPTIONS)
    assert machine.holds() == ["a", "d", "e"]


def test_as_many_give_way_as_it_takes(machine):
    cache = TargetCache()
    for name in "abc":
        cache.load(Named(name, machine, size=30 * MIB), OPTIONS)
    cache.load(Named("large", machine, size=80 * MIB), OPTIONS)
    assert machine.holds() == ["large"]


def test_nothing_gives_way_while_there_is_room(machine):
    cache = TargetCache()
    for name in "abc":
        cache.load(Named(name, machine, size=30 * MIB), OPTIONS)
    assert machine.holds() == ["a", "b", "c"]
    assert "release" not in machine.calls


def test_memory_of_what_gave_way_is_handed_back_to_the_device(machine):
    cache = TargetCache()
    cache.load(Named("a", machine, size=90 * MIB), OPTIONS)
    cache.load(Named("b", machine, size=90 * MIB), OPTIONS)
    assert machine.calls.count("release") == 1


@pytest.mark.parametrize(
    ("size", "fits"), [(int(100 * MIB / HEADROOM) - 1, True), (int(100 * MIB / HEADROOM) + 1, False)]
)
def test_a_target_needs_a_tenth_more_than_its_weights(machine, size, fits):
    reference = Named("a", machine, size=size)
    if fits:
        assert TargetCache().load(reference, OPTIONS)[0].id == "a"
        return
    with pytest.raises(TargetError, match=r"a needs about 90\.9 MiB for its weights, and fake has 100\.0 MiB left"):
        TargetCache().load(reference, OPTIONS)
    assert reference.loads == []


def test_a_target_that_does_not_fit_even_alone_is_refused_unloaded(machine):
    cache, large = TargetCache(), Named("large", machine, size=200 * MIB)
    cache.load(Named("a", machine), OPTIONS)
    with pytest.raises(TargetError, match="use a smaller dtype, fewer layers or a larger machine"):
        cache.load(large, OPTIONS)
    assert large.loads == []


@pytest.mark.parametrize("size", [Unknown("on the Hub"), 0])
def test_a_target_of_unknown_size_is_tried(machine, size):
    machine.size = 1
    assert TargetCache().load(Named("a", machine, size=size), OPTIONS)[0].id == "a"


def test_a_device_that_does_not_know_its_free_memory_refuses_nothing(machine):
    machine.available_bytes = lambda: Unknown("mps")
    assert TargetCache().load(Named("a", machine, size=2**60), OPTIONS)[0].id == "a"


def test_two_names_of_one_device_are_one_target(machine):
    cache, reference = TargetCache(), Named("a", machine)
    first, _ = cache.load(reference, LoadOptions(device="auto"))
    assert cache.load(reference, LoadOptions(device="fake"))[0] is first
    assert len(reference.loads) == 1


def test_running_out_of_memory_while_loading_lets_go_of_all_others_and_tries_once_more(machine):
    cache = TargetCache()
    cache.load(Named("a", machine), OPTIONS)
    reference = Named("b", machine, errors=[OutOfMemoryTargetError("model='b': out of memory while loading")])
    cache.load(reference, OPTIONS)
    assert len(reference.loads) == 2
    assert machine.holds() == ["b"]


def test_running_out_of_memory_alone_is_an_error_at_once_that_says_where_it_went(machine):
    reference = Named("b", machine, errors=[OutOfMemoryTargetError("model='b': out of memory while loading")])
    with pytest.raises(OutOfMemoryTargetError) as caught:
        TargetCache().load(reference, OPTIONS)
    assert str(caught.value).splitlines() == [
        "model='b': out of memory while loading",
        "  fake: 100.0 MiB of 1024.0 GiB free; own: 1.0 MiB live",
    ]
    assert len(reference.loads) == 1


def test_what_does_not_fit_even_alone_names_those_that_gave_way(machine):
    cache = TargetCache()
    cache.load(Named("a", machine), OPTIONS)
    reference = Named("b", machine, errors=[OutOfMemoryTargetError("model='b': out of memory while loading")] * 2)
    with pytest.raises(OutOfMemoryTargetError, match=r"\n  gave way before: a \(100\.0 MiB\)$"):
        cache.load(reference, OPTIONS)
    with pytest.raises(TargetError, match=r"100\.0 MiB left; .*\n  fake: 100\.0 MiB of .*live$"):
        cache.load(Named("large", machine, size=200 * MIB), OPTIONS)


def test_a_half_built_model_is_let_go_of_while_its_error_is_held(machine):
    class Half(Named):
        def load(self, options):
            half = FakeTarget(FakeClock())
            built.append(weakref.ref(half))
            raise OutOfMemoryTargetError(f"{half.id}: out of memory while loading")

    built = []
    with pytest.raises(OutOfMemoryTargetError) as caught:
        TargetCache().load(Half("half", machine), OPTIONS)
    assert built[0]() is None
    assert "while loading" in str(caught.value)


def test_all_but_one_let_go(machine):
    cache = TargetCache()
    kept = [cache.load(Named(name, machine), OPTIONS)[0] for name in "abc"][1]
    assert cache.let_go(kept)
    assert not cache.let_go(kept)
    assert cache.load(Named("b", machine), OPTIONS)[0] is kept
    gc.collect()
    assert machine.holds() == ["b"]


def test_what_gives_way_in_one_rank_gives_way_in_all(monkeypatch):
    machines = [Machine(100 * MIB), Machine(25 * MIB)]
    monkeypatch.setattr(cache_module, "device_of", lambda name, gpus: machines[ranks.rank()])

    def work(rank):
        cache = TargetCache()
        for name in ("one", "two", "three"):
            cache.load(Named(name, machines[rank]), OPTIONS)
        return machines[rank].holds()

    assert acting(monkeypatch, 2, work) == [["three", "two"]] * 2


def test_a_load_that_runs_out_of_memory_in_one_rank_is_tried_again_in_all(monkeypatch):
    machines = [Machine(100 * MIB), Machine(100 * MIB)]
    monkeypatch.setattr(cache_module, "device_of", lambda name, gpus: machines[ranks.rank()])
    seconds = [0.0, 0.0]

    def work(rank):
        cache = TargetCache()
        cache.load(Named("one", machines[rank]), OPTIONS)
        large = Named("large", machines[rank], errors=[OutOfMemoryTargetError("no room")] * rank)
        seconds[rank] = cache.load(large, OPTIONS)[1]
        return len(large.loads), machines[rank].holds()

    assert acting(monkeypatch, 2, work) == [(2, ["large"])] * 2
    assert seconds[0] == seconds[1] > 0


def test_any_other_error_of_loading_costs_no_other_target(machine):
    cache = TargetCache()
    cache.load(Named("a", machine), OPTIONS)
    reference = Named("b", machine, errors=[TargetError("model='b': no config.json")])
    with pytest.raises(TargetError, match=r"no config\.json"):
        cache.load(reference, OPTIONS)
    assert len(reference.loads) == 1
    assert machine.holds() == ["a"]


def test_a_load_that_failed_is_tried_again_the_next_time(machine):
    cache = TargetCache()
    reference = Named("a", machine, errors=[TargetError("the disk is away")])
    with pytest.raises(TargetError):
        cache.load(reference, OPTIONS)
    assert cache.load(reference, OPTIONS)[0].id == "a"


def test_clear_lets_go_of_every_target(machine):
    cache = TargetCache()
    for name in "abc":
        cache.load(Named(name, machine), OPTIONS)
    cache.clear()
    assert machine.holds() == []


def test_progress_tells_of_loads_and_of_nothing_else(machine):
    told = []
    cache = TargetCache(told.append)
    for name in ("a", "b", "a"):
        cache.load(Named(name, machine), OPTIONS)
    assert told == ["loading a", "loading b"]


def test_a_users_module_is_never_kept(machine):
    module = random_weights("gpt2", n_layer=1, n_embd=16, n_head=2, vocab_size=20, n_positions=16).load(
        LoadOptions(device="cpu")
    )
    reference = resolve(module.model)
    cache = TargetCache()
    first, seconds = cache.load(reference, OPTIONS)
    second, _ = cache.load(reference, OPTIONS)
    assert second is not first
    assert second.model is first.model is module.model
    assert seconds == Unknown("the test brought its target with it")
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None


def test_a_stream_is_never_kept(machine):
    cache, reference = TargetCache(), Stream(lambda ids, n: range(n))
    assert cache.load(reference, OPTIONS)[0] is not cache.load(reference, OPTIONS)[0]


def test_two_real_models_share_a_session():
    sizes = {"n_embd": 16, "n_head": 2, "vocab_size": 20, "n_positions": 16}
    cache, options = TargetCache(), LoadOptions(device="cpu")
    one, _ = cache.load(random_weights("gpt2", n_layer=1, **sizes), options)
    two, _ = cache.load(random_weights("gpt2", n_layer=2, **sizes), options)
    again, seconds = cache.load(resolve(one.id), options)
    assert again is one
    assert two is not one
    assert isinstance(seconds, Unknown)
