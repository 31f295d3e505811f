"""A model and a task give scores."""
