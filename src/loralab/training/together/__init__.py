"""Several runs on one frozen base in one process, side by side."""
