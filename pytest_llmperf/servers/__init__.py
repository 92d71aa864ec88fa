"""Servers that a run starts for its tests: started, watched, and ended with all of their processes."""

from pytest_llmperf.servers.launch import Launch
from pytest_llmperf.servers.server import Server, serving

__all__ = ["Launch", "Server", "serving"]
