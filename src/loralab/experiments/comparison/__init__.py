"""Methods, seeds and sizes trained one after another, to one table."""
