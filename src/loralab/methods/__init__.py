"""One file per way to adapt a model: its specification and what it plans to do to a model."""
