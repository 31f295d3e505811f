"""Classifiers: one body, an adapter and a head of its own for every row of a batch."""
