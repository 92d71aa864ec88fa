"""A real small server with processes below it, and what is left of them."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

import psutil

PROGRAM = '''\
"""Serves /health, /pids and /grow/MIB; `--not-yet N` answers 503 to the first N looks, `--deaf` ignores SIGTERM."""
import json, os, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

port = int(sys.argv[1])
refusals = int(sys.argv[sys.argv.index("--not-yet") + 1]) if "--not-yet" in sys.argv else 0
SLEEP = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN) if DEAF else 0; time.sleep(600)"
sleeping = [sys.executable, "-S", "-c", SLEEP.replace("DEAF", str("--deaf" in sys.argv))]
child = subprocess.Popen(sleeping)
# The parent of this one ends at once, and it leaves the session.
slip_away = f"from subprocess import *; print(Popen({sleeping!r}, stdout=DEVNULL, start_new_session=True).pid)"
orphan = int(subprocess.run([sys.executable, "-S", "-c", slip_away], stdout=subprocess.PIPE).stdout)
if "--deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
grown = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        global refusals, grown
        said, status = "", 200
        if self.path == "/health" and refusals:
            refusals, status = refusals - 1, 503
        elif self.path == "/pids":
            said = json.dumps([os.getpid(), child.pid, orphan])
        elif self.path == "/folder":
            said = os.getcwd()
        elif self.path == "/variable":
            said = os.environ.get("OF_THE_TEST", "")
        elif self.path.startswith("/grow/"):
            grown = b"x" * (int(self.path[6:]) * 2**20)
        elif self.path == "/end":
            print("the engine has died", flush=True)
            os._exit(3)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(said.encode())

    def log_message(self, *arguments):
        pass


print(f"serving on {port}", flush=True)
HTTPServer(("127.0.0.1", port), Handler).serve_forever()
'''
READY = "http://127.0.0.1:{port}/health"
PATIENCE_S = 30.0
"""For processes to be gone, on a machine that does much else."""


def command_in(folder: Path, *arguments: str) -> list[str]:
    """The command of the server, written to a folder."""
    program = folder / "server.py"
    program.write_text(PROGRAM)
    return [sys.executable, "-S", str(program), "{port}", *arguments]


def ask(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        said: str = answer.read().decode()
        return said


def processes_of(server: Any) -> list[psutil.Process]:
    """Those of the command, and the one that keeps them."""
    found = [psutil.Process(pid) for pid in json.loads(ask(f"{server.url}/pids"))]
    return [*found, psutil.Process(server._kept.root)]


def left_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that do not end."""
    return list(psutil.wait_procs(processes, timeout=PATIENCE_S)[1])
