"""`endpoint(url)`: a server that is asked over HTTP."""
