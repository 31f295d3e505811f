"""Several processes that make one run together: who is who, what travels between them, and how they are started."""
