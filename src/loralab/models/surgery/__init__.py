"""Blocks taken out of a model, or replaced."""
