"""The same numbers sooner and in less memory: attention, output head, loss."""
