"""Targets: what is measured.

A *reference* names a target and is cheap to make, compare and print; `resolve()` makes one of what a
mark says. Its `load()` gives the *target* itself, whose only duty is to turn requests into traces.
Importing this package imports neither torch nor transformers.
"""

from __future__ import annotations

from pytest_llmperf.targets.endpoint import Endpoint, endpoint
from pytest_llmperf.targets.protocol import Clock, LoadOptions, Reference, Request, Served, Target
from pytest_llmperf.targets.references import Module, Pretrained, RandomWeights, random_weights, resolve
from pytest_llmperf.targets.stream import Stream, stream

__all__ = [
    "Clock",
    "Endpoint",
    "LoadOptions",
    "Module",
    "Pretrained",
    "RandomWeights",
    "Reference",
    "Request",
    "Served",
    "Stream",
    "Target",
    "endpoint",
    "random_weights",
    "resolve",
    "stream",
]
