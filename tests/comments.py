"""The comments on a pull request, as GitHub would have them."""

from __future__ import annotations

import json

from tests.servers import Received, Script, answers


class Comments:
    """Those of pull request 12 of someone/something; with a status, GitHub answers nothing else."""

    def __init__(self, *bodies: str, status: int = 0) -> None:
        self.bodies = [*bodies]
        self.status = status
        self.asked: list[Received] = []

    def __call__(self, received: Received) -> Script:
        self.asked.append(received)
        if self.status:
            return answers("{}", self.status)
        if received.method == "GET":
            assert received.path.startswith("/repos/someone/something/issues/12/comments?per_page=100&page=")
            page = int(received.path.rpartition("=")[2])
            shown = range(len(self.bodies))[100 * (page - 1) : 100 * page]
            url = f"http://{received.headers['host']}/comments"
            return answers(json.dumps([{"url": f"{url}/{number}", "body": self.bodies[number]} for number in shown]))
        if received.method == "PATCH":
            self.bodies[int(received.path.rpartition("/")[2])] = received.json["body"]
        else:
            self.bodies.append(received.json["body"])
        return answers("{}")
