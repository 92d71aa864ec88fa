"""One table, many writers."""
