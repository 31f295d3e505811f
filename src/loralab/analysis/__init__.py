"""What adapters learned, and what of a model is needed: the paper's §7 and what came after it."""
