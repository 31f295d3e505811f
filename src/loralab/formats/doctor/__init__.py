"""What is wrong with an adapter on disk, and what to do about it."""
