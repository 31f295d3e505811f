"""One base in memory, a different adapter for every sequence of a batch, behind an engine and a server."""
