"""Stands for an inference server on the command line, `vllm serve MODEL --port N`, whose model says nothing but words.

It answers as OpenAI's completions API does, and runs until it is ended.
"""

from __future__ import annotations

import sys
import threading

from tests.models import Model
from tests.servers import Server


def main() -> None:
    port = int(sys.argv[sys.argv.index("--port") + 1])
    model = Model(pages={"/v1/models": {"data": [{"id": "words"}]}, "/health": {}})
    with Server(model, port=port):
        threading.Event().wait()


if __name__ == "__main__":
    main()
