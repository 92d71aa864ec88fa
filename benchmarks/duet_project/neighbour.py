"""Keeps one core busy now and then."""

import random
import time

while True:
    end = time.monotonic() + random.uniform(0.2, 1)
    while time.monotonic() < end:
        pass
    time.sleep(random.uniform(0.2, 1))
