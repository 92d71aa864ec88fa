"""What modules of measuring tests begin with."""

from __future__ import annotations

from tests.fakes import TINY

HEAD = f"""\
import pytest
from pytest_llmperf import *

TINY = {TINY!r}


def fast(prompt_ids, output_tokens):
    yield from range(output_tokens)


FAST = stream(fast)

"""
"""A tiny model, and a stream that takes no time."""
