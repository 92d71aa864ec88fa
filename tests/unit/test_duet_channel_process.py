import os
import sys

import pytest

from pytest_llmperf.duet.channel import Process


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither groups nor sessions of processes")
def test_the_other_process_has_a_group_of_its_own_and_this_ones_session():
    with Process([sys.executable, "-c", "input()"], "other") as other:
        assert os.getpgid(other.pid) == other.pid
        assert os.getsid(other.pid) == os.getsid(0)
