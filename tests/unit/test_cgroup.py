"""What the control groups of this process grant it, and what they withheld."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pytest_llmperf.cgroup import quota, withheld


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """Asked of a process whose /proc/self/cgroup holds this, where the control groups hold these files."""
    real = Path.read_text

    def asked(own, question=quota, **files):
        def read_text(self, *arguments, **keywords):
            if str(self) != "/proc/self/cgroup":
                return real(self, *arguments, **keywords)
            if own is None:
                raise FileNotFoundError(self)
            return own

        monkeypatch.setattr(Path, "read_text", read_text)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return question(tmp_path / "cgroup")

    return asked


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"a/b/cpu.max": "150000 100000\n"}, 1.5),
        ({"a/b/cpu.max": "max 100000\n"}, math.inf),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 200000\n"}, 0.25),
        ({"a/b/cpu.max": "100000 100000\n", "a/cpu.max": "400000 100000\n"}, 1.0),
        ({"cpu.max": "200000 100000\n"}, 2.0),
        ({"a/other/cpu.max": "100000 100000\n"}, math.inf),
        ({"../cpu.max": "100000 100000\n"}, math.inf),
        ({"a/b/cpu.max": "unreadable\n"}, math.inf),
        ({"a/b/cpu.max": "much 100000\n"}, math.inf),
        ({"a/b/cpu.max": "100000 0\n"}, math.inf),
        ({}, math.inf),
    ],
)
def test_the_quota_is_the_least_that_a_control_group_or_one_above_it_grants(cgroup, files, cores):
    assert cgroup("0::/a/b\n", **files) == cores


V1 = "12:cpuset:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x\n"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu/docker/x/cpu.cfs_quota_us": "250000\n", "cpu/docker/x/cpu.cfs_period_us": "100000\n"}, 2.5),
        ({"cpu/docker/x/cpu.cfs_quota_us": "-1\n", "cpu/docker/x/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"cpu/docker/cpu.cfs_quota_us": "50000\n", "cpu/docker/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3.0),
        ({"cpu/docker/x/cpu.cfs_quota_us": "250000\n"}, math.inf),
        ({}, math.inf),
    ],
)
def test_the_quota_is_found_in_the_older_form_of_control_groups_too(cgroup, files, cores):
    assert cgroup(V1, **files) == cores


def test_where_both_forms_are_mounted_the_lesser_quota_counts(cgroup):
    files = {"cpu/x/cpu.cfs_quota_us": "250000", "cpu/x/cpu.cfs_period_us": "100000", "x/cpu.max": "100000 100000"}
    assert cgroup("4:cpu,cpuacct:/x\n0::/x\n", **files) == 1.0


@pytest.mark.parametrize("own", [None, "", "0::/\n", "\n", "what?\n", "0:/\n"])
def test_a_system_without_control_groups_sets_no_quota(cgroup, own):
    assert cgroup(own) == math.inf


@pytest.mark.parametrize(
    ("own", "files", "seconds"),
    [
        ("0::/a/b\n", {"a/b/cpu.stat": "usage_usec 9\nnr_throttled 3\nthrottled_usec 2500000\n"}, 2.5),
        ("0::/a/b\n", {"a/b/cpu.stat": "throttled_usec 0\n", "a/cpu.stat": "throttled_usec 750000\n"}, 0.75),
        ("0::/a/b\n", {"a/b/cpu.stat": "usage_usec 9\n"}, 0.0),
        ("0::/a/b\n", {}, 0.0),
        (V1, {"cpu/docker/x/cpu.stat": "nr_periods 5\nthrottled_time 1500000000\n"}, 1.5),
        (None, {}, 0.0),
    ],
)
def test_what_a_quota_withheld_is_told_in_seconds(cgroup, own, files, seconds):
    assert cgroup(own, withheld, **files) == seconds
