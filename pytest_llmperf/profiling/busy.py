"""What of the user's own looks at torch's operators already: then what is seen is not the model alone."""

from __future__ import annotations

import sys

from pytest_llmperf.model import Unknown
from pytest_llmperf.targets.device import PROFILER_RUNNING, profiler_running


def busy() -> Unknown | None:
    """What is at work in this thread; None where nothing is."""
    if "torch" not in sys.modules:
        return None
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    if profiler_running():
        return PROFILER_RUNNING
    if (mode := _get_current_dispatch_mode()) is not None:
        return Unknown(f"{type(mode).__name__} is active, whose operators would be counted too", by_chance=True)
    return None
