"""Judging: pure functions over numbers, no I/O."""
