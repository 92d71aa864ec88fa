"""Where the time goes: what a model does, counted and profiled in passes of their own, apart from timing."""

from __future__ import annotations

from pytest_llmperf.model import Unknown

ONE_TOKEN = Unknown("a step of decode needs at least 2 output tokens")
NOT_BY_TOKEN = Unknown("the model's steps are not one per token (is it assisted decoding?)")
NO_OPERATOR = Unknown("no operator of torch was seen in this thread")
NO_PRODUCT = Unknown("no matrix product was seen in this thread")
NOT_IN_DECODE = Unknown("nothing was seen between tokens: they are made all at once, or in another thread")
