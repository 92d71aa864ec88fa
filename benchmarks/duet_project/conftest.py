import json
import os
from pathlib import Path

import pytest
from model import build

TESTS = int(os.environ.get("DUET_TESTS", "1"))
PROMPTS, OUTPUTS = (64, 256, 16, 512, 32, 128), (32, 48, 24, 64, 40)
SHAPES = [(PROMPTS[number % len(PROMPTS)], OUTPUTS[number % len(OUTPUTS)]) for number in range(TESTS)]


@pytest.fixture(scope="module")
def model():
    return build()


def pytest_generate_tests(metafunc):
    metafunc.parametrize("prompt, output", SHAPES)


def pytest_runtest_logreport(report):
    """Each process into a file of its own: fresh ones report too."""
    if getattr(report, "llmperf", None):
        told = {"seconds": report.duration, "results": report.llmperf}
        with Path(os.environ["DUET_TOLD"], f"{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(told) + "\n")
