"""What one adapter does at one module: one file per kind of update, and the one place that builds them."""
