"""What is predicted, and what is not."""

IGNORED = -100
"""The label of a position that is no target: torch's and transformers' convention."""
