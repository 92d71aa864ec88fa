"""`--llmperf-against` with servers: base's is started from base's code, or named by `base=`."""

from __future__ import annotations

import os

import pytest

from tests.plugin.duets import INI, Project

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers are started on POSIX")
SERVE = '''\
"""A server of OpenAI's completions API, as fast as the engine beside it."""
import json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from engine import GAP_S


class Handler(BaseHTTPRequestHandler):
    disable_nagle_algorithm = True
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(json.dumps({"data": [{"id": "paced"}]}), "application/json")

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        count = asked["max_tokens"]
        self.answer(None, "text/event-stream")
        for number in range(count):
            time.sleep(GAP_S)
            self.event({"choices": [{"text": " word", "finish_reason": None}]})
        usage = {"prompt_tokens": len(asked["prompt"]), "completion_tokens": count}
        self.event({"choices": [{"text": "", "finish_reason": "length"}], "usage": usage})
        self.wfile.write(b"0\\r\\n\\r\\n")

    def answer(self, text, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if text is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write((text or "").encode())

    def event(self, content):
        data = b"data: %b\\n\\n" % json.dumps(content).encode()
        self.wfile.write(b"%x\\r\\n%b\\r\\n" % (len(data), data))

    def log_message(self, *arguments):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
'''
TEST = """
import pytest
from pytest_llmperf import *

READY = "http://127.0.0.1:{port}/v1/models"
LOAD = dict(prompt_tokens=8, output_tokens=8, concurrency=2, requests=4)


@pytest.fixture(scope="session")
def server(llm_server):
    return llm_server("python serve.py {port}", ready=READY)


@llm_perf(**LOAD)
def test_own(llm, server):
    llm.load(server.endpoint())
    llm.measure()
"""
BOTH = """

@pytest.fixture(scope="session")
def older(llm_server):
    return llm_server("python serve.py {port}", ready=READY, name="older", env={"GAP": "0.012"})


@llm_perf(**LOAD)
def test_named(llm, server, older):
    llm.load(server.endpoint(base=f"{older.url}/v1"))
    llm.measure()
"""
ENGINE = 'import os\n\nGAP_S = float(os.environ.get("GAP", {gap}))\n'


def test_base_starts_its_own_server_unless_one_with_the_older_code_is_named(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Head's is slower than base's, and as fast as the one that is named."""
    project = Project(
        tmp_path_factory.mktemp("duet") / "project",
        {"pytest.ini": INI, "engine.py": ENGINE.format(gap=0.002), "serve.py": SERVE, "test_served.py": TEST},
        {"engine.py": ENGINE.format(gap=0.012), "test_served.py": TEST + BOTH},
    )
    ran = project.against()
    ran.has("*REGRESSED tpot_ms * → *", "*endpoint:localhost/paced*8 → 8 tokens*2 at once*")
    assert ran.status == pytest.ExitCode.TESTS_FAILED
    assert ran.verdicts["test_own"] == "REGRESSED"
    assert ran.verdicts["test_named"] in ("no change seen", "INCONCLUSIVE", "OK", "IMPROVED")
    assert [what for what in project.left() if not what.startswith("pytest-of-")] == []  # pytest keeps its logs
