"""Training: one run from a configuration to an adapter on disk, its loop, its checkpoints and its record."""
