"""Scores of texts and of labels, each from a well-kept library, on a 0–100 scale."""
