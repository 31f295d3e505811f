"""Where the parts of a model are, family by family."""
